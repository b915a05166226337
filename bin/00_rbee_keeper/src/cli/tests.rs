use clap::CommandFactory;

use super::*;

#[test]
fn the_definitions_contradict_nothing() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_says_what_it_is_for() {
    fn check(command: &clap::Command) {
        assert!(command.get_about().is_some(), "{} has no help text", command.get_name());
        for arg in command.get_arguments().filter(|a| !a.is_hide_set()) {
            assert!(arg.get_help().is_some(), "{} {}", command.get_name(), arg.get_id());
        }
        command.get_subcommands().for_each(check);
    }
    check(&Cli::command());
}

#[test]
fn global_options_work_before_and_after_the_command() {
    for line in ["rbee-keeper --json worker list", "rbee-keeper worker list --json"] {
        assert!(parse(line).unwrap().global.json, "{line}");
    }
}

#[test]
fn the_commands_of_the_documentation_are_understood() {
    for line in [
        "up",
        "up --bind 127.0.0.1:0",
        "down",
        "status --json",
        "queen start --bind 0.0.0.0:8500",
        "queen start --bind [::1]:8500",
        "queen rebuild --with-local-hive --source /src",
        "queen rebuild --without-local-hive",
        "hive list",
        "hive start localhost --yes",
        "hive status gpu-1",
        "hive add gpu-1 --ssh bee@192.168.1.20",
        "hive add gpu-1 --ssh gpu-box --port 9100 --advertise gpu-1.home.arpa",
        "hive add nas --url http://nas:9000 --secret-file -",
        "hive import-ssh",
        "model copy m --from localhost --to gpu-1",
        "model policy m --hive any --device any",
        "model policy m --hive gpu-1 --device gpu-0",
        "hive discover --wait 5",
        "hive remove gpu-1",
        "hive install gpu-1 --queen-url http://desk:8500",
        "hive uninstall gpu-1 --purge",
        "hive logs gpu-1 -n 20",
        "hive logs gpu-1 --follow",
        "hive restart gpu-1",
        "hive refresh gpu-1",
        "worker spawn --model m --device gpu-0 --hive gpu-1 --slots 2 --ctx-size 4096",
        "worker spawn --model hf:o/r:Q4_K_M@main",
        "infer --model https://h/a.gguf hello",
        "worker get w-1",
        "worker delete w-1 --hive gpu-1",
        "worker restart w-1",
        "worker logs w-1 -f -n 20 --hive gpu-1",
        "worker logs w-1 --follow --lines 0",
        "worker attach --url http://nas:11434",
        "worker attach --url http://gpu-box:8000/v1 --name vllm --slots 32 --secret-file FILE",
        "worker attach --url http://desk:1234 --model qwen2.5-7b-instruct --api openai",
        "worker detach nas",
        "model import file.gguf --alias m",
        "model verify m",
        "model download hf:o/r:Q4_K_M@main --alias m --hive gpu-1",
        "model download hf:o/r --mmproj auto",
        "model download hf:o/r --mmproj hf:o/r:mmproj-F16.gguf",
        "model download hf:o/r --no-mmproj",
        "model import file.gguf --mmproj mmproj.gguf",
        "model import --from ollama",
        "model import /srv/store --from lmstudio",
        "model import folder --link",
        "model list --partial",
        "model list --hive gpu-1",
        "model cancel hf:o/r:Q4_K_M --hive gpu-1",
        "worker list --hive gpu-1",
        "model pin m --yes",
        "model alias m n --hive gpu-1",
        "model update m --accept 0000000000000000000000000000000000000000000000000000000000000000",
        "model update m --accept 0000000000000000000000000000000000000000000000000000000000000000 --accept-projector 0000000000000000000000000000000000000000000000000000000000000000",
        "model mmproj m none --hive gpu-1",
        "model mmproj m hf:o/r:vision/mmproj-F16.gguf",
        "model gc",
        "token huggingface --remove",
        "infer -",
        "infer hello --temperature 0 --stop a --stop b",
        "infer --prompt hello --model qwen2.5:7b --seed 18446744073709551615",
        "job follow 1f",
        "job show 1f --why",
        "request why r-1",
        "policy test scheduler.rhai --model m --priority batch --prompt-bytes 10",
        "token create",
        "token revoke laptop",
        "completions bash",
    ] {
        assert!(parse(&format!("rbee-keeper {line}")).is_ok(), "{line}");
    }
}

#[test]
fn a_wrong_value_is_refused_with_the_option_that_holds_it() {
    for (line, named) in [
        ("infer", "<PROMPT"),
        ("model download hf:o/r --mmproj p.gguf", "--mmproj"),
        ("model mmproj m p.gguf", "REFERENCE|auto|none"),
        (
            "model update m --accept-projector 0000000000000000000000000000000000000000000000000000000000000000",
            "--accept",
        ),
        ("model download hf:o/r --mmproj auto --no-mmproj", "--no-mmproj"),
        ("infer x --prompt y", "--prompt"),
        ("infer x --max-tokens -1", "--max-tokens"),
        ("infer x --max-tokens 0", "--max-tokens"),
        ("infer x --temperature nan", "--temperature"),
        ("infer x --temperature warm", "--temperature"),
        ("infer x --seed -1", "--seed"),
        ("infer x --stop=", "--stop"),
        ("infer x --model=", "--model"),
        ("worker spawn --model ../etc/passwd", "--model"),
        ("infer x --model hf:../etc", "--model"),
        ("worker spawn", "--model"),
        ("model policy m --min 65", "--min"),
        ("model policy m --max 0", "--max"),
        ("model policy m --idle 2592001", "--idle"),
        ("model policy m --ctx-size 255", "--ctx-size"),
        ("model policy m --slots 257", "--slots"),
        ("worker spawn --model m --device TPU-0", "--device"),
        ("worker spawn --model m --slots 0", "--slots"),
        ("worker get ../x", "WORKER"),
        ("worker logs w-1 -n -1", "--lines"),
        ("worker logs w-1 -n 10001", "--lines"),
        ("hive status a/b", "ALIAS"),
        ("hive add gpu-1", "--ssh"),
        ("hive add gpu-1 --ssh=-oProxyCommand=id", "--ssh"),
        ("hive add gpu-1 --ssh a --url http://a:9000 --secret-file -", "--url"),
        ("hive add gpu-1 --url http://a:9000", "--secret-file"),
        ("hive install", "ALIAS"),
        ("queen start --bind 8500", "--bind"),
        ("token create --name=", "--name"),
        ("completions nushell5", "SHELL"),
    ] {
        let refused = parse(&format!("rbee-keeper {line}")).unwrap_err();
        assert_eq!(refused.exit_code(), 2, "{line}");
        assert!(refused.to_string().contains(named), "{line}: {refused}");
    }
}

#[test]
fn help_says_what_is_done_where_an_option_is_left_out() {
    for (command, told) in [
        ("model get", "[default: the one that has it]"),
        ("model verify", "[default: each that has it]"),
        ("worker attach", "64 for vLLM, 16 for another rbee, 1 for Ollama, else 4]"),
        (
            "worker attach",
            "[default: the URL's host; server-PORT for this machine or an IPv6 address]",
        ),
    ] {
        let help = parse(&format!("rbee-keeper {command} -h")).unwrap_err().to_string();
        let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(told), "{command}: {words}");
    }
}

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split(' '))
}
