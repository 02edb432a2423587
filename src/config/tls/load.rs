//! Reads the files of the options for TLS, now and whenever they change.
//!
//! Owns what is logged of certificates. [`crate::net::transport::tls`] uses the contents.

use std::{
    cell::RefCell,
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use humantime::format_rfc3339_seconds;
use log::{info, warn};

use super::{OwnCertificate, Pair, TlsOptions};
use crate::{
    config::{files::Reloads, options::Opt},
    net::{
        shared::Shared,
        transport::tls::config::{
            Acceptor, Authorities, ClientAuth, Connector, Identity, PodTls, PodTrust, ServerTls, Versions,
        },
    },
    proxy::{metrics::CertificateExpiry, settings::Settings},
};

/// The largest file that is read. The CAs of a Linux distribution have 220 KiB.
const FILE_BYTES_MAX: usize = 1 << 20;
/// How many names of a certificate are logged.
const NAMES_LOGGED: usize = 3;

impl TlsOptions {
    /// Reads the files, makes TLS part of what is shared, and watches the files. Needs the settings for access, which
    /// must have been read. Returns when certificates expire.
    ///
    /// # Errors
    /// The option, the file and the fault.
    pub fn load(
        &self,
        listen: &[SocketAddr],
        shared: &Arc<Shared>,
        reloads: &mut Reloads,
    ) -> Result<Vec<Arc<CertificateExpiry>>, String> {
        let mut loader = Loader { reloads, expiries: Vec::new() };
        self.load_for_clients(listen, shared, &mut loader)?;
        self.load_for_pods(shared, &mut loader)?;
        Ok(loader.expiries)
    }

    fn load_for_clients(
        &self,
        listen: &[SocketAddr],
        shared: &Arc<Shared>,
        loader: &mut Loader<'_>,
    ) -> Result<(), String> {
        let has_secrets = shared.settings().access.tokens.is_some();
        let clients = Rc::new(ForClients {
            shared: Arc::clone(shared),
            client_auth: match (&self.client_ca, has_secrets) {
                (None, _) => ClientAuth::None,
                (Some(_), true) => ClientAuth::VerifyIfGiven,
                (Some(_), false) => ClientAuth::RequireAndVerify,
            },
            client_sans: self.client_sans.clone(),
            versions: self.versions,
            identity: RefCell::default(),
            client_ca: RefCell::default(),
        });
        // Before the certificate, so that no client is accepted without it.
        if let Some(path) = &self.client_ca {
            let clients = Rc::clone(&clients);
            loader.authorities(Opt::TlsClientCa, path, Box::new(move |ca| clients.use_ca(ca)))?;
        }
        match &self.certificate {
            OwnCertificate::None => Ok(()),
            OwnCertificate::Files(pair) => {
                let used = move |identity| clients.use_identity(identity);
                loader.identity(Opt::TlsCert, pair, Box::new(used))
            }
            OwnCertificate::SelfSigned(names) => {
                let names = if names.is_empty() { &default_names(listen) } else { names };
                let option = Opt::TlsSelfSigned.name();
                let identity = Identity::self_signed(names).map_err(|error| format!("{option}: {error}"))?;
                info!(option; "made a self-signed {}", describe(&identity));
                loader.expiry(Opt::TlsSelfSigned).set(identity.expires_at());
                clients.use_identity(identity)
            }
        }
    }

    fn load_for_pods(&self, shared: &Arc<Shared>, loader: &mut Loader<'_>) -> Result<(), String> {
        let trust =
            if self.pod_skip_verify { PodTrust::Any } else { PodTrust::SignedBy(Authorities::default()) };
        let pods = PodTls { trust, name: self.pod_name.clone(), identity: None };
        let pods = Rc::new(ForPods { shared: Arc::clone(shared), tls: RefCell::new(pods) });
        // Without any option there is no connector, and no certificate is trusted: creating one takes 200 KiB of
        // memory, most of it for rustls's code.
        if self.pod_skip_verify {
            pods.change(|_| {})?;
        }
        if let Some(path) = &self.pod_ca {
            let pods = Rc::clone(&pods);
            let used = move |ca| pods.change(|tls| tls.trust = PodTrust::SignedBy(ca));
            loader.authorities(Opt::PodTlsCa, path, Box::new(used))?;
        }
        let Some(pair) = &self.pod_certificate else { return Ok(()) };
        let used = move |identity| pods.change(|tls| tls.identity = Some(identity));
        loader.identity(Opt::PodTlsCert, pair, Box::new(used))
    }
}

/// Uses what was read. If it fails, it has changed nothing.
type Use<T> = Box<dyn Fn(T) -> Result<(), String>>;

/// Watches files, and notes when their certificates expire.
struct Loader<'l> {
    reloads: &'l mut Reloads,
    expiries: Vec<Arc<CertificateExpiry>>,
}

impl Loader<'_> {
    /// Reads a certificate and its key.
    fn identity(&mut self, option: Opt, pair: &Pair, used: Use<Identity>) -> Result<(), String> {
        let expiry = self.expiry(option);
        let apply = move |contents: &[Vec<u8>]| {
            let identity = Identity::from_pem(&contents[0], &contents[1])?;
            let (description, expires_at) = (describe(&identity), identity.expires_at());
            used(identity)?;
            note(option, &expiry, expires_at);
            Ok(description)
        };
        self.reloads.load(option.name(), pair, FILE_BYTES_MAX, Box::new(apply))
    }

    /// Reads the certificates of CAs.
    fn authorities(&mut self, option: Opt, path: &PathBuf, used: Use<Authorities>) -> Result<(), String> {
        let expiry = self.expiry(option);
        let apply = move |contents: &[Vec<u8>]| {
            let authorities = Authorities::from_pem(&contents[0])?;
            let (count, expires_at) = (authorities.count(), authorities.expires_at());
            if authorities.unusable() > 0 {
                let (option, unusable) = (option.name(), authorities.unusable());
                warn!(option; "ignoring {unusable} certificate(s) that cannot be parsed");
            }
            used(authorities)?;
            note(option, &expiry, expires_at);
            let plural = if count == 1 { "" } else { "s" };
            Ok(format!("{count} CA certificate{plural}"))
        };
        self.reloads.load(option.name(), std::slice::from_ref(path), FILE_BYTES_MAX, Box::new(apply))
    }

    /// Returns the expiry of an option's certificates, to be set.
    fn expiry(&mut self, option: Opt) -> Arc<CertificateExpiry> {
        let expiry = Arc::new(CertificateExpiry::new(option.name()));
        self.expiries.push(Arc::clone(&expiry));
        expiry
    }
}

/// TLS with clients, in its parts.
struct ForClients {
    shared: Arc<Shared>,
    client_auth: ClientAuth,
    client_sans: Vec<String>,
    versions: Versions,
    identity: RefCell<Option<Identity>>,
    client_ca: RefCell<Option<Authorities>>,
}

impl ForClients {
    fn use_identity(&self, identity: Identity) -> Result<(), String> {
        self.swap(identity.clone(), self.client_ca.borrow().clone())?;
        *self.identity.borrow_mut() = Some(identity);
        Ok(())
    }

    fn use_ca(&self, ca: Authorities) -> Result<(), String> {
        let identity = self.identity.borrow().clone();
        if let Some(identity) = identity {
            self.swap(identity, Some(ca.clone()))?;
        }
        *self.client_ca.borrow_mut() = Some(ca);
        Ok(())
    }

    fn swap(&self, identity: Identity, client_ca: Option<Authorities>) -> Result<(), String> {
        let acceptor = Acceptor::new(&ServerTls {
            identity,
            client_auth: self.client_auth,
            client_ca,
            client_sans: self.client_sans.clone(),
            versions: self.versions,
        })?;
        self.shared.swap_tls(|tls, _| tls.acceptor = Some(acceptor));
        Ok(())
    }
}

/// TLS with pods.
struct ForPods {
    shared: Arc<Shared>,
    tls: RefCell<PodTls>,
}

impl ForPods {
    fn change(&self, change: impl FnOnce(&mut PodTls)) -> Result<(), String> {
        let mut changed = self.tls.borrow().clone();
        change(&mut changed);
        let connector = Connector::new(&changed)?;
        self.shared.swap_tls(|tls, settings| {
            tls.connector = Some(connector);
            begin_generation(settings);
        });
        *self.tls.borrow_mut() = changed;
        Ok(())
    }
}

/// Separates pooled connections that were verified as configured before from those of now.
fn begin_generation(settings: &mut Settings) {
    settings.pods.tls_generation += 1;
}

/// Returns the names for a self-signed certificate: those by which clients may reach this machine.
fn default_names(listen: &[SocketAddr]) -> Vec<String> {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let addresses = listen.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified());
    let mut names = vec![host.trim().to_owned(), "localhost".to_owned()];
    names.extend(addresses.map(|ip: IpAddr| ip.to_canonical().to_string()));
    names.retain(|name| super::host(name).is_ok());
    names.dedup();
    names
}

/// Notes when certificates expire, and warns if they have.
pub(in crate::config) fn note(option: Opt, expiry: &CertificateExpiry, at: u64) {
    expiry.set(at);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    if at < now {
        let option = option.name();
        warn!(option; "the certificate expired at {}", date(at));
    }
}

/// Describes a certificate: `certificate for a.example, b.example, valid until 2027-01-31T00:00:00Z`.
pub(in crate::config) fn describe(identity: &Identity) -> String {
    let names = identity.names();
    let mut shown = names.iter().take(NAMES_LOGGED).cloned().collect::<Vec<_>>().join(", ");
    if names.is_empty() {
        "no name".clone_into(&mut shown);
    }
    let more = match names.len().saturating_sub(NAMES_LOGGED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("certificate for {shown}{more}, valid until {}", date(identity.expires_at()))
}

fn date(seconds: u64) -> String {
    format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}
