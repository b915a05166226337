//! Whom of the servers that are reached by TLS the queen believes to be who they are.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use narration::with_causes;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

/// Certificates are believed that come from the authorities of the system, and from those of a file. A clone
/// shares what was read.
#[derive(Clone, Default)]
pub struct Trust {
    file: Option<PathBuf>,
    /// Made at the first need: most houses have no server that is reached by TLS.
    connector: Arc<OnceLock<TlsConnector>>,
}

/// Nobody can be believed.
#[derive(Debug, thiserror::Error)]
enum NoTrust {
    #[error("the certificates of {file}, queen.server_ca_file, cannot be read")]
    File { file: PathBuf, source: rustls::pki_types::pem::Error },
    #[error("{0}, queen.server_ca_file, has no certificate of an authority")]
    Empty(PathBuf),
    #[error(
        "this machine has no certificates of authorities (package ca-certificates), and queen.server_ca_file names none"
    )]
    Nobody,
    #[error("TLS cannot be used")]
    Tls(#[from] rustls::Error),
}

/// What can be done where a connection could not be made since the queen has nobody whose certificates she could
/// believe.
pub(crate) fn lacks_trust(error: &io::Error) -> Option<&'static str> {
    Some(match error.get_ref()?.downcast_ref::<NoTrust>()? {
        NoTrust::File { .. } | NoTrust::Empty(_) => {
            "the file is read again at the next connection; to name another one, set queen.server_ca_file in \
             config.toml and restart the queen: rbee-keeper queen restart"
        }
        NoTrust::Nobody => {
            "install them, or name a PEM file of authorities: set queen.server_ca_file in config.toml and restart the \
             queen: rbee-keeper queen restart"
        }
        NoTrust::Tls(_) => {
            "this queen can use no TLS: attach the server by http, where it speaks that"
        }
    })
}

impl Trust {
    /// Trust in the authorities of the system, and those of a PEM file if one is named.
    #[must_use]
    pub fn new(file: Option<PathBuf>) -> Self {
        Self { file, connector: Arc::default() }
    }

    /// Says if the file of authorities cannot be used, which is read at the first need: whoever starts the queen is
    /// told before that.
    pub(crate) async fn tell_of_file(self) {
        let Some(file) = self.file else { return };
        let added = tokio::task::spawn_blocking(move || {
            add_authorities(&mut RootCertStore::empty(), file).map_err(|wrong| with_causes(&wrong))
        });
        if let Ok(Err(reason)) = added.await {
            tracing::warn!(
                reason,
                "no server can be reached by https until its authorities can be read"
            );
        }
    }

    /// What makes connections, and the name that a host must prove to have.
    pub(super) async fn connector(
        &self,
        host: &str,
    ) -> io::Result<(TlsConnector, ServerName<'static>)> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        if let Some(connector) = self.connector.get() {
            return Ok((connector.clone(), name));
        }
        let file = self.file.clone();
        let made = tokio::task::spawn_blocking(move || connector(file)).await?;
        let made = made.map_err(io::Error::other)?;
        Ok((self.connector.get_or_init(|| made).clone(), name))
    }
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust").field("file", &self.file).finish_non_exhaustive()
    }
}

fn connector(file: Option<PathBuf>) -> Result<TlsConnector, NoTrust> {
    let mut roots = RootCertStore::empty();
    // One that cannot be read is one less: most systems have one hundred and fifty.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(file) = file {
        add_authorities(&mut roots, file)?;
    }
    if roots.is_empty() {
        return Err(NoTrust::Nobody);
    }
    let provider = Arc::new(ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Adds those of a PEM file.
fn add_authorities(roots: &mut RootCertStore, file: PathBuf) -> Result<(), NoTrust> {
    let own = CertificateDer::pem_file_iter(&file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let own = own.map_err(|source| NoTrust::File { file: file.clone(), source })?;
    if roots.add_parsable_certificates(own).0 == 0 {
        return Err(NoTrust::Empty(file));
    }
    Ok(())
}
