//! Ways of SSH that its configuration and its agent know: the queen goes them without knowing.

use testbed::{DESK, Testbed};

#[tokio::test]
async fn a_machine_behind_another_one_is_installed_through_it() {
    let Some(bed) = Testbed::start(&["gate", "inner"]).unwrap() else { return };
    let config =
        "printf 'Host attic\n  HostName inner\n  User bee\n  ProxyJump bee@gate\n' >.ssh/config";
    bed.sh(DESK, config).unwrap();
    bed.start_queen().await.unwrap();
    for line in [
        "hive add attic --ssh attic",
        // SSH shows the address of the machine between the two.
        "hive install attic --queen-url http://10.77.0.1:8500",
        "hive start attic",
    ] {
        bed.keeper(line).await.unwrap().expect_success().unwrap();
    }
    let hive = bed.hive_when("attic", "alive", |hive| hive["liveness"] == "alive").await.unwrap();
    assert_eq!(hive["address"], "http://10.77.0.3:9000", "it is asked straight");
    let log = bed.as_root("inner", "cat /run/host/sshd.log").unwrap();
    assert!(log.contains("for bee from 10.77.0.2"), "nobody came through the gate: {log}");
    assert!(!log.contains("from 10.77.0.1 "), "the queen came by herself: {log}");
}

#[tokio::test]
async fn a_key_that_only_the_agent_has_opens_a_machine() {
    let Some(bed) = Testbed::start(&["gpu-1"]).unwrap() else { return };
    let hide = "ssh-agent -a $HOME/agent >/dev/null && export SSH_AUTH_SOCK=$HOME/agent && \
                ssh-add -q .ssh/id_ed25519 && rm .ssh/id_ed25519";
    bed.sh(DESK, hide).unwrap();
    bed.start_queen().await.unwrap();
    bed.keeper("hive add gpu-1 --ssh bee@gpu-1").await.unwrap().expect_success().unwrap();
    let refused = bed.keeper("hive install gpu-1").await.unwrap();
    assert_eq!(refused.code, Some(1), "{refused}");
    assert!(refused.stderr.contains("accepts none of the queen's SSH keys"), "{refused}");

    bed.keeper("queen stop").await.unwrap().expect_success().unwrap();
    bed.sh(DESK, "SSH_AUTH_SOCK=$HOME/agent rbee-keeper queen start").unwrap();
    bed.keeper("hive install gpu-1").await.unwrap().expect_success().unwrap();
}
