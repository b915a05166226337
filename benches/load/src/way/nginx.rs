//! nginx as it is set up for streams: one process, nothing buffered, connections kept.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

use super::{Process, free_port};

/// Starts nginx in front of workers.
pub(super) fn start(program: &Path, workers: &[SocketAddr]) -> Result<(Process, SocketAddr)> {
    let dir = TempDir::with_prefix("rbee-load-nginx-")?;
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let config = dir.path().join("nginx.conf");
    fs::write(&config, configuration(address, workers))?;
    let mut command = Command::new(program);
    command.arg("-p").arg(dir.path()).arg("-c").arg(config).args(["-e", "error.log"]);
    Ok((Process::start(&mut command, dir)?, address))
}

fn configuration(address: SocketAddr, workers: &[SocketAddr]) -> String {
    let servers = workers.iter().fold(String::new(), |mut servers, worker| {
        let _ = write!(servers, "server {worker}; ");
        servers
    });
    format!(
        "daemon off;
worker_processes 1;
pid nginx.pid;
events {{ worker_connections 20000; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    keepalive_requests 100000000;
    upstream workers {{ {servers} keepalive 512; keepalive_requests 100000000; }}
    server {{
        listen {address} backlog=4096;
        location / {{
            proxy_pass http://workers;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_buffering off;
            proxy_read_timeout 600s;
        }}
    }}
}}
"
    )
}
