//! The options for access control: which clients are served.

use std::{ffi::OsString, path::PathBuf, sync::Arc};

use ipnet::IpNet;
use log::{info, warn};

use super::{
    files::Reloads,
    options::Opt,
    random_key::random_key,
    source::{Source, UsageError},
    tls::TlsOptions,
    web,
};
use crate::{
    net::shared::Shared,
    proxy::{
        access::{
            Access,
            clients::ClientRanges,
            tokens::{FILE_BYTES_MAX, SECRET_BYTES_ADVISED, Tokens},
        },
        metrics::CertificateExpiry,
        policy,
    },
};

/// The files of the options for access control.
#[derive(Clone, Debug, Default)]
pub struct AccessFiles {
    /// The file with the accepted secrets.
    pub tokens: Option<PathBuf>,
    /// The web configuration file.
    pub web: Option<PathBuf>,
}

/// Reads the options for access control. The files are not read yet.
pub(super) fn access<V: Fn(&str) -> Option<OsString>>(
    source: &mut Source<V>,
    tls: &TlsOptions,
) -> Result<(Access, AccessFiles), UsageError> {
    let clients = ClientRanges::new(source.list(Opt::AllowClients, policy::parse_range)?);
    let tokens = source.path(Opt::AuthTokenFile)?;
    let web = source.path(Opt::WebConfigFile)?;
    if web.is_some() && !cfg!(feature = "web-config") {
        return Err(UsageError("this psystrike is built without web configuration files".to_owned()));
    }
    if web.is_some() && tls.serves_clients() {
        return Err(source.excludes(Opt::WebConfigFile, &[Opt::TlsCert, Opt::TlsSelfSigned]));
    }
    let guards_pages = source.flag(Opt::AuthMetrics)?;
    if guards_pages && tokens.is_none() && web.is_none() && !tls.verifies_clients() {
        let one_of = [Opt::AuthTokenFile, Opt::TlsClientCa, Opt::WebConfigFile];
        return Err(source.requires(Opt::AuthMetrics, &one_of));
    }
    let encrypted_only = source.flag(Opt::TlsOnly)?;
    if encrypted_only && !tls.serves_clients() && web.is_none() {
        return Err(source.requires(Opt::TlsOnly, &[Opt::TlsCert, Opt::TlsSelfSigned]));
    }
    let client_certificates = tls.verifies_clients();
    let access = Access { clients, guards_pages, encrypted_only, client_certificates, ..Access::default() };
    Ok((access, AccessFiles { tokens, web }))
}

impl AccessFiles {
    /// Reads the files into the settings, and watches them. Returns when certificates expire.
    ///
    /// # Errors
    /// The option, the file and the fault.
    pub fn load(
        &self,
        shared: &Arc<Shared>,
        reloads: &mut Reloads,
    ) -> Result<Vec<Arc<CertificateExpiry>>, String> {
        self.load_tokens(shared, reloads)?;
        let expiry = self.web.as_ref().map(|path| web::load(path, shared, reloads)).transpose()?;
        Ok(expiry.into_iter().collect())
    }

    fn load_tokens(&self, shared: &Arc<Shared>, reloads: &mut Reloads) -> Result<(), String> {
        let Some(path) = &self.tokens else { return Ok(()) };
        let shared = Arc::clone(shared);
        let key = random_key();
        let apply = move |contents: &[Vec<u8>]| {
            let tokens = Tokens::parse(&contents.concat(), key).map_err(|fault| fault.to_string())?;
            let description = describe(&tokens);
            if tokens.short() > 0 {
                let short = tokens.short();
                warn!(
                    "{short} secret(s) shorter than {SECRET_BYTES_ADVISED} characters, which may be guessed"
                );
            }
            let mut settings = (*shared.settings()).clone();
            settings.access.tokens = Some(Arc::new(tokens));
            shared.swap_settings(settings);
            Ok(description)
        };
        reloads.load(Opt::AuthTokenFile.name(), std::slice::from_ref(path), FILE_BYTES_MAX, Box::new(apply))
    }
}

/// Returns the number and the names of secrets: `3 secrets (old, new, unnamed)`.
fn describe(tokens: &Tokens) -> String {
    let names: Vec<&str> =
        tokens.names().map(|name| if name.is_empty() { "unnamed" } else { name }).collect();
    let plural = if names.len() == 1 { "" } else { "s" };
    format!("{} secret{plural} ({})", names.len(), names.join(", "))
}

/// Returns ranges as the log shows them.
pub fn joined(ranges: &[IpNet]) -> String {
    ranges.iter().map(IpNet::to_string).collect::<Vec<_>>().join(",")
}

/// Logs which clients are served, and warns if that is any client that reaches psystrike.
pub fn log_access(access: &Access, listens_beyond_loopback: bool) {
    let clients = if access.clients.is_any() { "any".to_owned() } else { joined(access.clients.ranges()) };
    let authentication = if access.is_authenticated() { "required" } else { "off" };
    info!(clients:%, authentication; "allowed clients");
    if listens_beyond_loopback && access.is_unrestricted() {
        let [file, ca, clients] =
            [Opt::AuthTokenFile, Opt::TlsClientCa, Opt::AllowClients].map(|option| option.name());
        let or_ca = if cfg!(feature = "tls") { format!(", {ca}") } else { String::new() };
        warn!(
            "any client that reaches psystrike can scrape all allowed destinations; set {file}{or_ca} or {clients}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_described_by_their_names() {
        for (text, expected) in [
            ("wombat", "1 secret (unnamed)"),
            ("a:wombat", "1 secret (a)"),
            ("a:wombat\nwombat\nb:wombat", "3 secrets (a, unnamed, b)"),
        ] {
            let tokens = Tokens::parse(text.as_bytes(), random_key()).expect("secrets");
            assert_eq!(describe(&tokens), expected);
        }
    }
}
