//! What a configuration file and the environment say together, and what is told when it is wrong.

use std::path::Path;

use rbee_config::{Config, Paths, PortRange};

#[test]
fn nothing_said_is_the_default() {
    assert_eq!(parse("", &[]).unwrap(), Config::default());
    assert_eq!(Config::default().queen.bind.to_string(), "127.0.0.1:8500");
    assert_eq!(Config::default().hive.worker_ports.to_string(), "9300-9399");
}

#[test]
fn every_setting_can_be_written_in_the_file() {
    let text = r#"
        [queen]
        bind = "0.0.0.0:80"
        max_body_bytes = 1_048_576
        max_queue_per_model = 1
        request_timeout_s = 1
        keep_jobs = 1
        drain_s = 0
        server_ca_file = "ca.pem"
        threads = 64

        [hive]
        bind = "[::1]:0"
        alias = "gpu-1"
        worker_ports = 9300
        queen_url = "http://queen.home.arpa:8500/"
        advertise = "192.168.1.7"
        stop_grace_s = 0
        start_timeout_s = 1
        memory = "8 GiB"

        [worker]
        slots = 1
        ctx_size = 256
        heartbeat_interval_ms = 50
        threads = 1
        arguments = ["--lora", "my adapter.gguf"]

        [hives.gpu-2]
        host = "gpu-2.home.arpa"

        [hives.gpu-3]
        host = "fd00::3"
        port = 1
    "#;
    let config = parse(text, &[]).unwrap();
    assert_eq!(config.hive.worker_ports, PortRange { start: 9300, end: 9300 });
    assert_eq!(config.hive.queen_url.as_deref(), Some("http://queen.home.arpa:8500"));
    assert_eq!(config.hive.memory, Some(8 << 30));
    assert_eq!((config.worker.threads, config.queen.threads), (Some(1), Some(64)));
    assert_eq!(config.worker.arguments, ["--lora", "my adapter.gguf"]);
    assert_eq!(config.queen.server_ca_file.as_deref(), Some(Path::new("ca.pem")));
    let ports: Vec<u16> = config.hives.values().map(|hive| hive.port).collect();
    assert_eq!(ports, [9000, 1]);
    assert_eq!(config.hive.bind.to_string(), "[::1]:0");
}

#[test]
fn what_is_wrong_in_the_file_is_told_with_its_place() {
    for (text, expected) in [
        (
            "[queen]\nbidn = 1\n",
            "rbee.toml:2: unknown key `queen.bidn`; did you mean `queen.bind`?",
        ),
        ("\n\n[quen]\nbind = 1\n", "rbee.toml:3: unknown key `quen`; did you mean `queen`?"),
        (
            "queen.drain = 1",
            "rbee.toml:1: unknown key `queen.drain`; did you mean `queen.drain_s`?",
        ),
        ("[worker]\nslots = 1\nzzz = 1\nslotz = 1", "rbee.toml:3: unknown key `worker.zzz`"),
        (
            "[hives.gpu-1]\nhost = \"x\"\nprot = 1\n",
            "rbee.toml:3: unknown key `hives.gpu-1.prot`; did you mean `hives.gpu-1.port`?",
        ),
        (
            "[models.qwen2.5]\nmin = 1\n",
            "rbee.toml:1: unknown key `models.qwen2.5`; a name with a dot wants quotes: \
             [models.\"qwen2.5\"]",
        ),
        (
            "\n[hives.gpu.home.arpa]\nhost = \"x\"\n",
            "rbee.toml:2: unknown key `hives.gpu.home.arpa`; a name with a dot wants quotes: \
             [hives.\"gpu.home.arpa\"]",
        ),
        (
            "[worker]\nslots = \"four\"\n",
            "rbee.toml:2: `worker.slots`: invalid type: string \"four\", expected a whole number \
             from 1 to 256",
        ),
        (
            "[worker]\n\n\nslots = 0\n",
            "rbee.toml:4: `worker.slots`: invalid value: integer `0`, expected a whole number \
             from 1 to 256",
        ),
        (
            "[worker]\nctx_size = 255\n",
            "rbee.toml:2: `worker.ctx_size`: invalid value: integer `255`, expected a whole number \
             from 256 to 16777216",
        ),
        (
            "[worker]\narguments = [\"\"]\n",
            "rbee.toml:2: `worker.arguments`: invalid length 1, expected a list of at most 64 \
             arguments, each of 1 to 4096 bytes without NUL",
        ),
        (
            "[worker]\nthreads = 1.5\n",
            "rbee.toml:2: `worker.threads`: invalid type: floating point `1.5`, expected a whole \
             number from 1 to 1024",
        ),
        (
            "[queen]\nthreads = 0\n",
            "rbee.toml:2: `queen.threads`: invalid value: integer `0`, expected a whole number from 1 \
             to 64",
        ),
        (
            "[queen]\nbind = \"localhost:8500\"\n",
            "rbee.toml:2: `queen.bind`: invalid value: string \"localhost:8500\", expected an IP \
             address and a port such as \"127.0.0.1:8500\"",
        ),
        (
            "[hive]\nworker_ports = \"9399-9300\"\n",
            "rbee.toml:2: `hive.worker_ports`: invalid ports \"9399-9300\": write the first and \
             the last, such as 9300-9399, or one port, or 0 for any free one",
        ),
        (
            "[hive]\nworker_ports = true\n",
            "rbee.toml:2: `hive.worker_ports`: invalid type: boolean `true`, expected ports such \
             as \"9300-9399\"",
        ),
        (
            "[hive]\nqueen_url = \"queen:8500\"\n",
            "rbee.toml:2: `hive.queen_url`: invalid value: string \"queen:8500\", expected a base \
             URL such as \"http://queen.home.arpa:8500\"",
        ),
        (
            "[hive]\nhf_endpoint = \"hf.co\"\n",
            "rbee.toml:2: `hive.hf_endpoint`: invalid value: string \"hf.co\", expected a base URL such as \
             \"https://huggingface.co\"",
        ),
        (
            "[queen]\nserver_ca_file = 3\n",
            "rbee.toml:2: `queen.server_ca_file`: invalid type: integer `3`, expected the path of a PEM file",
        ),
        (
            "[models.smol]\nmin = -1\n",
            "rbee.toml:2: `models.smol.min`: invalid value: integer `-1`, expected a whole number from 0 to 64",
        ),
        (
            "[models.smol]\npin = 1\n",
            "rbee.toml:2: `models.smol.pin`: invalid type: integer `1`, expected true or false",
        ),
        (
            "[hives.localhost]\nhost = \"x\"\n",
            "rbee.toml:1: `hives.localhost`: that is the queen's own machine, which has no entry",
        ),
        (
            "[hives.gpu-1]\nhost = \"-oProxyCommand=x\"\n",
            "rbee.toml:2: `hives.gpu-1.host`: invalid value: string \"-oProxyCommand=x\", expected \
             a host name or an IP address",
        ),
        (
            "[hive]\nmemory = \"much\"\n",
            "rbee.toml:2: `hive.memory`: invalid value: string \"much\", expected a size of at least \
             1.0 MiB such as \"8 GiB\"",
        ),
        (
            "[queen]\nmax_body_bytes = \"2 GiB\"\n",
            "rbee.toml:2: `queen.max_body_bytes`: invalid value: string \"2 GiB\", expected a size from \
             1 KiB to 1 GiB such as \"10 MiB\"",
        ),
        (
            "[hive]\nmemory = 1000\n",
            "rbee.toml:2: `hive.memory`: invalid value: integer `1000`, expected a size of at least \
             1.0 MiB such as \"8 GiB\"",
        ),
        ("[hives.gpu-1]\nport = 1\n", "rbee.toml:1: `hives.gpu-1`: missing field `host`"),
        (
            "[hives.gpu-1]\nhost = \"x\"\nport = 65536\n",
            "rbee.toml:3: `hives.gpu-1.port`: invalid value: integer `65536`, expected a whole \
             number from 1 to 65535",
        ),
        (
            "[hives.\"../x\"]\nhost = \"x\"\n",
            "rbee.toml:1: `hives.../x`: invalid hive alias \"../x\": use 1 to 63 letters, digits, ._-, \
             starting with a letter or a digit",
        ),
        (
            "queen = 3\n",
            "rbee.toml:1: `queen`: invalid type: integer `3`, expected a section of settings",
        ),
        (
            "[queen]\nbind = \n",
            "rbee.toml:2: string values must be quoted, expected literal string",
        ),
        ("[queen]\nkeep_jobs = 1\nkeep_jobs = 2\n", "rbee.toml:3: duplicate key"),
        ("\0", "rbee.toml:1: "),
    ] {
        let error = parse(text, &[]).unwrap_err();
        assert!(
            error.starts_with(expected),
            "{text:?}\n  said:     {error}\n  expected: {expected}"
        );
    }
}

#[test]
fn a_variable_comes_before_the_file_and_leaves_the_rest() {
    let text = "[queen]\nbind = \"127.0.0.1:1\"\nkeep_jobs = 5\n";
    let variables = [
        ("RBEE_QUEEN__BIND", "127.0.0.1:2"),
        ("RBEE_WORKER__SLOTS", " 7 "),
        ("RBEE_WORKER__THREADS", "3"),
        ("RBEE_HIVE__WORKER_PORTS", "9500"),
        ("RBEE_HIVE__ALIAS", "12345"),
        ("RBEE_HIVE__MEMORY", "1.5 GiB"),
        ("RBEE_HIVE__ADVERTISE", "gpu-1"),
        ("RBEE_WORKER__ARGUMENTS", "--cache-type-k q8_0"),
        ("RBEE_QUEEN__DRAIN_S", ""),
        ("RBEE_LOG", "debug"),
        ("RBEE_HOME", "anywhere"),
        ("OTHER__THING", "x"),
    ];
    let config = parse(text, &variables).unwrap();
    assert_eq!((config.queen.bind.port(), config.queen.keep_jobs), (2, 5));
    assert_eq!((config.worker.slots, config.worker.threads), (7, Some(3)));
    assert_eq!(config.worker.arguments, ["--cache-type-k", "q8_0"]);
    assert_eq!(config.hive.worker_ports.to_string(), "9500");
    assert_eq!((config.hive.alias.as_str(), config.queen.drain_s), ("12345", 30));
    assert_eq!(config.hive.advertise.as_deref(), Some("gpu-1"));
    assert_eq!(config.worker.ctx_size, Config::default().worker.ctx_size);
}

#[test]
fn the_largest_body_is_a_number_of_bytes_or_a_size_with_its_unit() {
    for (written, bytes) in
        [("2048", 2048), ("\"10 MiB\"", 10 << 20), ("\"1KiB\"", 1 << 10), ("\"1 GiB\"", 1 << 30)]
    {
        let config = parse(&format!("[queen]\nmax_body_bytes = {written}\n"), &[]).unwrap();
        assert_eq!(config.queen.max_body_bytes, bytes, "{written}");
        let variable = [("RBEE_QUEEN__MAX_BODY_BYTES", written.trim_matches('"'))];
        assert_eq!(parse("", &variable).unwrap().queen.max_body_bytes, bytes, "{written}");
    }
}

#[test]
fn what_is_wrong_in_a_variable_is_told_with_its_name() {
    for (variable, value, expected) in [
        (
            "RBEE_QUEEN__BIDN",
            "x",
            "the environment variable RBEE_QUEEN__BIDN is no setting; did you mean \
             `RBEE_QUEEN__BIND`?",
        ),
        (
            "RBEE_QUEN__BIND",
            "x",
            "the environment variable RBEE_QUEN__BIND is no setting; did you mean \
             `RBEE_QUEEN__BIND`?",
        ),
        (
            "RBEE_HIVES__X",
            "x",
            "the environment variable RBEE_HIVES__X is no setting: hives are set in config.toml only, in \
             [hives.NAME]",
        ),
        (
            "RBEE_MODELS__LLAMA__MIN",
            "1",
            "the environment variable RBEE_MODELS__LLAMA__MIN is no setting: models are set in \
             config.toml only, in [models.NAME]",
        ),
        (
            "RBEE_WORKER__SLOTS",
            "many",
            "the environment variable RBEE_WORKER__SLOTS: invalid type: string \"many\", expected \
             a whole number from 1 to 256",
        ),
        (
            "RBEE_WORKER__SLOTS",
            "-1",
            "the environment variable RBEE_WORKER__SLOTS: invalid value: integer `-1`, expected a \
             whole number from 1 to 256",
        ),
        (
            "RBEE_HIVE__BIND",
            "9000",
            "the environment variable RBEE_HIVE__BIND: invalid value: string \"9000\", expected an \
             IP address and a port",
        ),
        (
            "RBEE_HIVE__ALIAS",
            "a/b",
            "the environment variable RBEE_HIVE__ALIAS: invalid hive alias",
        ),
        (
            "RBEE_HIVE__WORKER_PORTS",
            "0-9",
            "the environment variable RBEE_HIVE__WORKER_PORTS: invalid ports \"0-9\"",
        ),
    ] {
        let error = parse("", &[(variable, value)]).unwrap_err();
        assert!(
            error.starts_with(expected),
            "{variable}={value}\n  said:     {error}\n  expected: {expected}"
        );
    }
}

#[test]
fn a_file_is_read_from_its_place_and_need_not_be_there() {
    let home = tempfile::tempdir().unwrap();
    let paths = Paths::under(home.path());
    assert_eq!(Config::load(&paths).unwrap().worker.slots, 4);
    std::fs::write(&paths.config_file, "[worker]\nslots = 9\n").unwrap();
    assert_eq!(Config::load(&paths).unwrap().worker.slots, 9);
    std::fs::write(&paths.config_file, b"[worker]\nslots = \"\xFF\"\n").unwrap();
    let error = Config::load(&paths).unwrap_err().to_string();
    assert!(error.contains("config.toml"), "{error}");
}

#[test]
fn a_file_that_was_named_must_be_there() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("named.toml");
    let error = Config::load_named(&file).unwrap_err().to_string();
    assert_eq!(error, format!("cannot read {}, named by --config", file.display()));
    std::fs::write(&file, "[worker]\nslots = 9\n").unwrap();
    assert_eq!(Config::load_named(&file).unwrap().worker.slots, 9);
}

#[test]
fn what_is_wanted_of_a_models_workers_is_read_and_a_misspelt_wish_is_refused() {
    let text =
        "[models.smol]\nmin = 1\nidle_ttl_s = 60\ndevice = \"CPU-0\"\n[models.\"a:b\"]\npin = true";
    let config = parse(text, &[]).unwrap();
    let smol = &config.models[&"smol".parse().unwrap()];
    assert_eq!((smol.min, smol.idle_ttl_s), (Some(1), Some(60)));
    assert_eq!(config.models[&"a:b".parse().unwrap()].pin, Some(true));
    let refused = parse("[models.smol]\nminn = 1", &[]).unwrap_err();
    assert!(
        refused.contains("models.smol.minn") && refused.contains("models.smol.min"),
        "{refused}"
    );
}

#[test]
fn a_configuration_reads_back_as_it_is_written() {
    let text = "[hives.gpu-1]\nhost = \"gpu-1\"\n[worker]\nthreads = 2\n[hive]\nadvertise = \"a\"";
    let config = parse(text, &[]).unwrap();
    assert_eq!(parse(&toml::to_string(&config).unwrap(), &[]).unwrap(), config);
}

fn parse(text: &str, env: &[(&str, &str)]) -> Result<Config, String> {
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::parse(text, Path::new("rbee.toml"), env).map_err(|error| error.to_string())
}
