//! `--web-config-file`: access control and TLS in the format of Prometheus's exporters.
//!
//! Owns how such a file, and the files that it names, become settings. [`yaml`] reads the grammar, [`document`] the
//! keys.

pub mod document;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "no_tls.rs"]
mod tls;
pub mod yaml;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use log::warn;

use self::{
    document::{ClientAuthType, Document},
    tls::Served,
};
use super::{
    files::{FileReader, Reloads},
    options::Opt,
    random_key::random_key,
};
use crate::{
    net::shared::Shared,
    proxy::{access::users::Users, metrics::CertificateExpiry},
};

/// Maximum size of each of the files. The CAs of a Linux distribution have 220 KiB.
const FILE_BYTES_MAX: usize = 1 << 20;

/// A web configuration file, and what it changes.
struct WebConfig {
    path: PathBuf,
    shared: Arc<Shared>,
    expiry: Arc<CertificateExpiry>,
    /// Whether plain HTTP is refused even without the file. With TLS in the file, it is refused as by exporters.
    tls_only: bool,
}

/// Reads a web configuration file into the settings, and watches it with the files that it names. Returns when its
/// certificate expires.
///
/// # Errors
/// The option, the file and the fault.
pub fn load(
    path: &Path,
    shared: &Arc<Shared>,
    reloads: &mut Reloads,
) -> Result<Arc<CertificateExpiry>, String> {
    let expiry = Arc::new(CertificateExpiry::new(Opt::WebConfigFile.name()));
    let config = WebConfig {
        path: path.to_owned(),
        shared: Arc::clone(shared),
        expiry: Arc::clone(&expiry),
        tls_only: shared.settings().access.encrypted_only,
    };
    let apply = move |reader: &mut FileReader<'_>| config.apply(reader);
    reloads.load_any(Opt::WebConfigFile.name(), FILE_BYTES_MAX, Box::new(apply))?;
    Ok(expiry)
}

impl WebConfig {
    /// Reads the files, and makes everything in them take effect at once.
    fn apply(&self, reader: &mut FileReader<'_>) -> Result<String, String> {
        let content = reader.read(&self.path)?;
        let in_file = |fault: String| format!("{}: {fault}", self.path.display());
        let text = str::from_utf8(&content).map_err(|_| in_file("not valid UTF-8".to_owned()))?;
        let folder = self.path.parent().unwrap_or(Path::new(""));
        let Document { tls, users } =
            document::parse(text, folder).map_err(|fault| in_file(fault.to_string()))?;
        let requires_certificate =
            tls.as_ref().is_some_and(|tls| tls.client_auth == ClientAuthType::RequireAndVerifyClientCert);
        let served = tls.map(|tls| tls::read(&tls, reader, &self.expiry)).transpose().map_err(in_file)?;
        let serves_tls = served.is_some();
        if self.tls_only && !serves_tls {
            return Err(in_file(format!("{} requires tls_server_config", Opt::TlsOnly.name())));
        }
        if !serves_tls {
            self.expiry.set(0);
        }
        let description = describe(served.as_ref(), users.len());
        let users = (!users.is_empty()).then(|| self.keep(Users::new(users, random_key())));
        self.shared.swap_tls(|tls, settings| {
            tls.acceptor = served.map(|served| served.acceptor);
            settings.access.users = users;
            settings.access.client_certificates = requires_certificate;
            settings.access.encrypted_only = self.tls_only || serves_tls;
        });
        Ok(description)
    }

    /// Returns the users in effect if the new ones are the same: passwords that are known to be right stay known when
    /// only a certificate changes.
    fn keep(&self, new: Users) -> Arc<Users> {
        let settings = self.shared.settings();
        match &settings.access.users {
            Some(known) if known.is_same(&new) => Arc::clone(known),
            _ => {
                warn_of_costs(&new);
                Arc::new(new)
            }
        }
    }
}

/// Warns if the time of a check shows whether a user exists: unknown users take as long as the highest cost.
fn warn_of_costs(users: &Users) {
    let (lowest, highest) = users.costs();
    if lowest < highest {
        warn!(
            "bcrypt costs of basic_auth_users differ ({lowest} to {highest}), so response times show which users exist"
        );
    }
}

/// Returns what a file configures: `2 users; certificate for a.example`.
fn describe(served: Option<&Served>, users: usize) -> String {
    let users = match users {
        0 => None,
        1 => Some("1 user".to_owned()),
        count => Some(format!("{count} users")),
    };
    let parts: Vec<String> =
        users.into_iter().chain(served.map(|served| served.description.clone())).collect();
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use std::{env, ffi::OsString, fs, process};

    use super::*;
    use crate::{
        config::{Command, parse},
        proxy::metrics::BuildInfo,
    };

    const HASH: &str = "$2b$04$If6bvum7DFjUnE9p2uDeDuB9FHBtjxsfYVbvpSXewPCBc7bgqUl16";
    const OTHER_HASH: &str = "$2b$04$If6bvum7DFjUnE9p2uDeDuZ1mcTiaQtmDGmlQpmjn866qTzQ3l7vq";

    fn shared() -> Arc<Shared> {
        let Ok(Command::Serve(config)) = parse(Vec::<OsString>::new(), |_| None) else { panic!("a default") };
        let (version, revision) = ("", "");
        let build_info =
            BuildInfo { version, revision, clients_max: 1, upstreams_idle_max: 1, buffers_max: 0 };
        Arc::new(Shared::new(config.settings, build_info, 1))
    }

    #[test]
    fn passwords_stay_known_until_a_user_changes() {
        let path = env::temp_dir().join(format!("psystrike-web-users-{}.yml", process::id()));
        let text = |users: &[(&str, &str)]| {
            let line = |(name, hash): &(&str, &str)| format!("  {name}: {hash}\n");
            format!("basic_auth_users:\n{}", users.iter().map(line).collect::<String>())
        };
        let first = [("alice", HASH), ("bob", OTHER_HASH)];
        fs::write(&path, text(&first)).expect("written");
        let (shared, mut reloads) = (shared(), Reloads::default());
        load(&path, &shared, &mut reloads).expect("it is valid");
        let users = || shared.settings().access.users.clone();
        for (changed, is_kept) in [
            (text(&first) + "# a comment\n", true),
            (text(&[first[1], first[0]]), true),
            (text(&[first[0], ("bob", HASH)]), false),
            (text(&[first[0], ("carol", HASH)]), false),
            (text(&first[..1]), false),
            (text(&first), false),
        ] {
            let known = users().expect("users");
            fs::write(&path, &changed).expect("written");
            reloads.reload();
            let now = users().expect("users");
            assert_eq!(Arc::ptr_eq(&known, &now), is_kept, "{changed}");
        }
        fs::remove_file(&path).expect("removed");
    }
}
