//! What can go wrong on the way to a machine: each says which step failed, why, and what to do, and
//! leaves nothing behind.

use std::time::Duration;

use test_cluster::{KeeperRun, wait_until};
use testbed::{DESK, Testbed};

#[tokio::test]
async fn an_unknown_host_key_is_refused_with_the_command_that_accepts_it() {
    let Some(bed) = Testbed::start(&["gpu-1"]).unwrap() else { return };
    let refused = refused_after(&bed, "rm .ssh/known_hosts").await;
    expect(
        &refused,
        &["step \"connect\"", "host key of bee@gpu-1 is not known", "`ssh bee@gpu-1`"],
    );
    assert!(bed.sh(DESK, "test ! -s .ssh/known_hosts").is_ok(), "it was not learned silently");
}

#[tokio::test]
async fn a_host_key_that_changed_is_refused() {
    let Some(bed) = Testbed::start(&["gpu-1"]).unwrap() else { return };
    let swap = "ssh-keygen -q -t ed25519 -N '' -f other && \
                printf 'gpu-1 %s\\n' \"$(cut -d ' ' -f 1,2 other.pub)\" >.ssh/known_hosts";
    let refused = refused_after(&bed, swap).await;
    expect(&refused, &["has changed", "ssh-keygen -R gpu-1"]);
}

#[tokio::test]
async fn a_wrong_key_is_refused_with_the_command_that_brings_the_right_one() {
    let Some(bed) = Testbed::start(&["gpu-1"]).unwrap() else { return };
    let swap = "rm .ssh/id_ed25519* && ssh-keygen -q -t ed25519 -N '' -f .ssh/id_ed25519";
    let refused = refused_after(&bed, swap).await;
    expect(
        &refused,
        &["accepts none of the queen's SSH keys", "Permission denied", "ssh-copy-id bee@gpu-1"],
    );
}

#[tokio::test]
async fn a_machine_that_is_off_cannot_be_reached() {
    let Some(bed) = Testbed::start(&["gpu-1"]).unwrap() else { return };
    bed.as_root("gpu-1", "kill $(cat /run/sshd.pid)").unwrap();
    let refused = refused_after(&bed, "true").await;
    expect(&refused, &["cannot be reached by SSH", "Connection refused"]);
}

#[tokio::test]
async fn too_little_space_is_seen_before_and_noticed_in_the_middle() {
    let Some(bed) = Testbed::start(&["gpu-1"]).unwrap() else { return };
    bed.as_root(
        "gpu-1",
        "mkdir /home/bee/.local && mount -t tmpfs -o size=20m,uid=4242 tmpfs /home/bee/.local",
    )
    .unwrap();
    let refused = refused_after(&bed, "true").await;
    expect(&refused, &["20 MiB are free there", "MiB are needed", "free some space"]);
    assert_eq!(left_behind(&bed), "");

    // More than there is, says a `df` that cannot know of what others write meanwhile.
    let df = "mkdir -p lies && printf '#!/bin/sh\\necho x\\necho x 9 9 99999999 0%% /\\n' >lies/df && chmod +x lies/df && \
              echo PATH=/home/bee/lies:/usr/bin:/bin >.ssh/environment";
    bed.sh("gpu-1", df).unwrap();
    let failed = bed.keeper("hive install gpu-1").await.unwrap();
    expect(&failed, &["step \"copy ", "No space left on device", "free some space"]);
    assert_eq!(left_behind(&bed), "");
}

#[tokio::test]
async fn another_processor_is_refused_before_anything_is_copied() {
    let Some(bed) = Testbed::start(&["gpu-1"]).unwrap() else { return };
    let lie = "mkdir -p lies && printf '#!/bin/sh\\n[ \"$1\" = -m ] && echo riscv64 || echo Linux\\n' >lies/uname && \
               chmod +x lies/uname && echo PATH=/home/bee/lies:/usr/bin:/bin >.ssh/environment";
    bed.sh("gpu-1", lie).unwrap();
    let refused = refused_after(&bed, "true").await;
    expect(&refused, &["its processor is riscv64", "built for", "rbee-keeper hive add"]);
    assert_eq!(left_behind(&bed), "");
}

#[tokio::test]
async fn programs_that_do_not_run_there_are_taken_away_again() {
    let Some(bed) = Testbed::start(&["gpu-1"]).unwrap() else { return };
    let broken = "printf '#!/bin/sh\\necho error while loading shared libraries: libgomp.so.1 >&2\\nexit 127\\n' >bin/llm-worker-rbee";
    let failed = refused_after(&bed, broken).await;
    expect(&failed, &["step \"try the programs\"", "libgomp.so.1", "apt-get install libgomp1"]);
    assert_eq!(left_behind(&bed), "");
}

#[tokio::test]
async fn an_upgrade_that_fails_at_its_last_step_leaves_the_earlier_installation_as_it_was() {
    let Some(bed) = Testbed::start(&["gpu-1"]).unwrap() else { return };
    bed.start_queen().await.unwrap();
    bed.settle("gpu-1").await.unwrap();
    let installed = || {
        let look = "cd .local/share/rbee-hive && ls -A . releases && readlink current && \
                    sha256sum config.toml alias data/secrets/local.token";
        bed.sh("gpu-1", look).unwrap()
    };
    let before = installed();
    // systemd that is there, and then takes no unit.
    let lie = "mkdir -p lies && printf '#!/bin/sh\ncase \"$*\" in *daemon-reload*) echo no room for units >&2; exit 1;; esac\n' >lies/systemctl && \
               chmod +x lies/systemctl && echo PATH=/home/bee/lies:/usr/bin:/bin >.ssh/environment";
    bed.sh("gpu-1", lie).unwrap();
    // Another build, and another configuration.
    bed.sh(DESK, "cd bin && cp rbee-hive new && echo >>new && mv new rbee-hive").unwrap();
    let upgrade = "hive install gpu-1 --queen-url http://desk:8500";
    let failed = bed.keeper(upgrade).await.unwrap();
    expect(&failed, &["step \"put it in place\"", "no room for units"]);
    assert_eq!(installed(), before);
    assert!(bed.sh("gpu-1", "test ! -e .config/systemd/user/rbee-hive.service").is_ok());
    bed.hive_when("gpu-1", "alive", |hive| hive["liveness"] == "alive").await.unwrap();

    bed.sh("gpu-1", "rm -r lies .ssh/environment").unwrap();
    bed.keeper(upgrade).await.unwrap().expect_success().unwrap();
    assert_ne!(installed(), before);
    bed.hive_when("gpu-1", "alive", |hive| hive["liveness"] == "alive").await.unwrap();
}

#[tokio::test]
async fn an_upgrade_to_a_hive_that_does_not_run_brings_the_former_one_back() {
    let Some(bed) = Testbed::start(&["gpu-1"]).unwrap() else { return };
    bed.start_queen().await.unwrap();
    bed.settle("gpu-1").await.unwrap();
    let worker = bed.employ("gpu-1").await.unwrap();
    let look = "cd .local/share/rbee-hive && ls -A . releases && readlink current";
    let before = bed.sh("gpu-1", look).unwrap();

    let broken = "cd bin && mv rbee-hive good && printf '#!/bin/sh\\n[ \"$1\" = --version ] || { echo out of order; exit 3; }\\n' >rbee-hive && \
                  chmod +x rbee-hive";
    bed.sh(DESK, broken).unwrap();
    let failed = bed.keeper("hive install gpu-1").await.unwrap();
    expect(&failed, &["does not run", "out of order", "the former hive runs again"]);
    assert_eq!(bed.sh("gpu-1", look).unwrap(), before);
    let got = bed.json(&format!("worker get {worker} --hive gpu-1")).await.unwrap();
    assert_eq!(got["state"], "ready", "its worker ran on: {got}");
    let answer = bed.keeper("infer --model demo --max-tokens 4 Hello").await.unwrap();
    answer.expect_success().unwrap();
}

#[tokio::test]
async fn a_cable_that_is_pulled_while_the_hive_is_replaced_leaves_the_former_one_running_once_it_is_back()
 {
    let Some(bed) = Testbed::start(&["gpu-1"]).unwrap() else { return };
    bed.start_queen().await.unwrap();
    bed.settle("gpu-1").await.unwrap();
    let look = "cd .local/share/rbee-hive && ls -A releases && readlink current";
    let before = bed.sh("gpu-1", look).unwrap();
    // The former hive's end takes its time, and who waits for it waits for long.
    let supervisor = "$(cut -d ' ' -f 1 /home/bee/.local/share/rbee-hive/run/supervisor.pid)";
    bed.as_root("gpu-1", &format!("kill -STOP {supervisor}")).unwrap();
    let slow = "mkdir -p lies && printf '#!/bin/sh\\n: >$HOME/waits\\nexec /bin/sleep 600\\n' >lies/sleep && \
                chmod +x lies/sleep && echo PATH=/home/bee/lies:/usr/bin:/bin >.ssh/environment";
    bed.sh("gpu-1", slow).unwrap();
    bed.sh(DESK, "cd bin && cp rbee-hive new && echo >>new && mv new rbee-hive").unwrap();
    let install = bed.start_keeper(&["hive", "install", "gpu-1"]).unwrap();
    wait_until("the middle of the replacement", Duration::from_secs(60), async || {
        bed.sh("gpu-1", "test -e waits").ok()
    })
    .await
    .unwrap();
    bed.cut("gpu-1").unwrap();
    until_install_says(&bed, "waiting for it, to put the former hive back").await;
    bed.sh("gpu-1", "rm -r lies .ssh/environment").unwrap();
    bed.as_root("gpu-1", &format!("kill -CONT {supervisor}")).unwrap();
    wait_until("the supervisor's end", Duration::from_secs(20), async || {
        bed.sh("gpu-1", "test ! -e .local/share/rbee-hive/run/supervisor.pid").ok()
    })
    .await
    .unwrap();
    bed.heal("gpu-1").unwrap();
    let failed = install.finish().await.unwrap();
    expect(&failed, &["the SSH connection to", "the former hive runs again"]);
    assert!(!failed.stderr.contains("could not be started"), "{failed}");
    assert_eq!(bed.sh("gpu-1", look).unwrap(), before);
    bed.hive_when("gpu-1", "alive", |hive| hive["liveness"] == "alive").await.unwrap();
}

#[tokio::test]
async fn a_cable_that_is_pulled_in_the_middle_of_the_copy_leaves_nothing_once_it_is_back() {
    let Some(bed) = Testbed::start(&["gpu-1"]).unwrap() else { return };
    bed.start_queen().await.unwrap();
    bed.keeper("hive add gpu-1 --ssh bee@gpu-1").await.unwrap().expect_success().unwrap();
    // A disk that takes its time: the copy waits in its middle for a reader.
    let slow = "mkdir -p lies && printf '#!/bin/sh\\nfile=$(readlink /proc/$$/fd/1)\\ncase $file in *llm-worker*) head -c 1000000; sleep 600;; esac\\nexec /bin/cat \"$@\"\\n' >lies/cat && \
                chmod +x lies/cat && echo PATH=/home/bee/lies:/usr/bin:/bin >.ssh/environment";
    bed.sh("gpu-1", slow).unwrap();
    let install = bed.start_keeper(&["hive", "install", "gpu-1"]).unwrap();
    wait_until("the copy's middle", Duration::from_secs(30), async || {
        let found =
            bed.sh("gpu-1", "stat -c %s .local/share/rbee-hive/.staging-*/llm-worker-rbee").ok()?;
        (found.trim() == "1000000").then_some(())
    })
    .await
    .unwrap();
    bed.cut("gpu-1").unwrap();
    until_install_says(&bed, "waiting for it").await;
    bed.sh("gpu-1", "rm -r lies .ssh/environment").unwrap();
    bed.heal("gpu-1").unwrap();
    let failed = install.finish().await.unwrap();
    expect(
        &failed,
        &[
            "step \"copy llm-worker-rbee\"",
            "the SSH connection to bee@gpu-1 broke",
            "give the command again",
        ],
    );
    assert_eq!(left_behind(&bed), "");
    bed.keeper("hive install gpu-1").await.unwrap().expect_success().unwrap();
}

#[tokio::test]
async fn a_queen_that_listens_for_herself_alone_says_how_others_reach_her() {
    let Some(bed) = Testbed::start(&["gpu-1"]).unwrap() else { return };
    bed.sh(DESK, "sed -i 's/0.0.0.0:8500/127.0.0.1:8500/' .config/rbee/config.toml").unwrap();
    let refused = refused_after(&bed, "true").await;
    expect(
        &refused,
        &["the queen listens on 127.0.0.1:8500 only", "queen start --bind 0.0.0.0:8500"],
    );
    assert_eq!(left_behind(&bed), "");
}

#[tokio::test]
async fn a_hive_that_cannot_start_says_why_and_is_not_tried_for_ever() {
    let Some(bed) = Testbed::start(&["gpu-1"]).unwrap() else { return };
    bed.start_queen().await.unwrap();
    bed.keeper("hive add gpu-1 --ssh bee@gpu-1").await.unwrap().expect_success().unwrap();
    bed.keeper("hive install gpu-1").await.unwrap().expect_success().unwrap();
    bed.sh("gpu-1", "echo 'nonsense = 1' >>.local/share/rbee-hive/config.toml").unwrap();
    let failed = bed.keeper("hive start gpu-1").await.unwrap();
    expect(&failed, &["hive gpu-1 does not run", "nonsense"]);
    assert!(bed.sh("gpu-1", "test ! -e .local/share/rbee-hive/run/supervisor.pid").is_ok());
}

/// What installing says after a script has run at the queen's machine.
async fn refused_after(bed: &Testbed, script: &str) -> KeeperRun {
    bed.sh(DESK, script).unwrap();
    bed.start_queen().await.unwrap();
    bed.keeper("hive add gpu-1 --ssh bee@gpu-1").await.unwrap().expect_success().unwrap();
    bed.keeper("hive install gpu-1").await.unwrap()
}

fn expect(failed: &KeeperRun, told: &[&str]) {
    assert_eq!(failed.code, Some(1), "{failed}");
    for text in told {
        assert!(failed.stderr.contains(text), "{text:?} is missing: {failed}");
    }
}

/// What an installation has left on the machine.
fn left_behind(bed: &Testbed) -> String {
    bed.sh("gpu-1", "find .local -mindepth 1 2>/dev/null; true").unwrap()
}

/// Waits until the installation that is under way says something.
async fn until_install_says(bed: &Testbed, text: &str) {
    wait_until("the end of the connection", Duration::from_secs(60), async || {
        let jobs = bed.json("job list").await.ok()?;
        let id = jobs.as_array()?.iter().find(|job| job["operation"] == "hive_install")?;
        let shown = bed
            .run(DESK, &["timeout", "1", "rbee-keeper", "job", "follow", id["job_id"].as_str()?])
            .ok()?;
        let told = [shown.stdout, shown.stderr].concat();
        String::from_utf8_lossy(&told).contains(text).then_some(())
    })
    .await
    .unwrap();
}
