//! The hosts that the user's `~/.ssh/config` names.

use std::collections::BTreeMap;
use std::path::Path;

use rbee_operations::SshHost;
use ssh2_config::{HostClause, ParseRule, SshConfig};

/// The hosts that a file of OpenSSH's client, with what it includes, names without a pattern. No file
/// names none.
pub(crate) fn config_hosts(file: &Path) -> Result<Vec<SshHost>, String> {
    if !file.exists() {
        return Ok(Vec::new());
    }
    let rules = ParseRule::ALLOW_UNKNOWN_FIELDS | ParseRule::ALLOW_UNSUPPORTED_FIELDS;
    let mut reader = std::fs::File::open(file)
        .map(std::io::BufReader::new)
        .map_err(|error| error.to_string())?;
    let config =
        SshConfig::default().parse(&mut reader, rules).map_err(|error| error.to_string())?;
    let mut hosts = BTreeMap::new();
    for clause in config.get_hosts().iter().flat_map(|host| &host.pattern) {
        let HostClause { pattern: alias, negated } = clause;
        if *negated || alias.contains(['*', '?', '!']) {
            continue;
        }
        let found = config.query(alias);
        let host = SshHost {
            alias: alias.clone(),
            host: found.host_name.unwrap_or_else(|| alias.clone()),
            user: found.user,
            port: found.port,
            hive_id: None,
        };
        hosts.insert(alias.clone(), host);
    }
    Ok(hosts.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_have_a_name_are_listed_with_what_the_patterns_add() {
        let folder = tempfile::tempdir().unwrap();
        let (file, more) = (folder.path().join("config"), folder.path().join("more"));
        std::fs::write(&more, "Host attic\n  HostName 10.1.0.9\n").unwrap();
        let text = format!(
            "Include {}\nHost gpu-1 gpu-2\n  User bee\n  Port 2222\nHost gpu-1\n  HostName 10.1.0.2\n\
             Host *.home !nas.home\n  User me\nHost *\n  ForwardX11Trusted yes\n  Frobnicate 3\n",
            more.display()
        );
        std::fs::write(&file, text).unwrap();
        let hosts = config_hosts(&file).unwrap();
        let told: Vec<_> = hosts
            .iter()
            .map(|h| format!("{} {} {:?} {:?}", h.alias, h.host, h.user.as_deref(), h.port))
            .collect();
        assert_eq!(
            told,
            [
                "attic 10.1.0.9 None None",
                "gpu-1 10.1.0.2 Some(\"bee\") Some(2222)",
                "gpu-2 gpu-2 Some(\"bee\") Some(2222)",
            ]
        );
        assert_eq!(config_hosts(&folder.path().join("none")).unwrap(), []);
    }
}
