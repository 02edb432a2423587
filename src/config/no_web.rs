//! Takes the place of [`web`](super) in a psystrike that is built without it: its option is a usage error, so there is
//! nothing to load.

use std::{path::Path, sync::Arc};

use super::files::Reloads;
use crate::{net::shared::Shared, proxy::metrics::CertificateExpiry};

/// Fails.
///
/// # Errors
/// Always.
pub fn load(_: &Path, _: &Arc<Shared>, _: &mut Reloads) -> Result<Arc<CertificateExpiry>, String> {
    Err("this psystrike is built without web configuration files".to_owned())
}
