//! The option for how pods are connected to.
//!
//! Owns the names of schemes.

use std::ffi::OsString;

use super::{
    options::Opt,
    source::{Source, UsageError},
};
use crate::proxy::pods::{PodScheme, Pods};

/// Reads it.
pub(super) fn pods<V: Fn(&str) -> Option<OsString>>(source: &mut Source<V>) -> Result<Pods, UsageError> {
    Ok(Pods::new(source.optional(Opt::PodScheme, scheme)?.unwrap_or_default()))
}

fn scheme(text: &str) -> Result<PodScheme, &'static str> {
    match text {
        "http" => Ok(PodScheme::Http),
        _ if !Pods::HAS_TLS => Err("expected http, as this psystrike is built without TLS"),
        "https" => Ok(PodScheme::Https),
        "client" => Ok(PodScheme::Client),
        _ => Err("expected http, https or client"),
    }
}

#[cfg(test)]
mod tests {
    use pico_args::Arguments;

    use super::*;

    #[test]
    fn schemes_other_than_http_need_tls() {
        for (value, expected) in
            [("http", PodScheme::Http), ("https", PodScheme::Https), ("client", PodScheme::Client)]
        {
            let arguments = Arguments::from_vec(vec![Opt::PodScheme.name().into(), value.into()]);
            let scheme = pods(&mut Source::new(arguments, |_| None)).map(|pods| pods.scheme);
            let expected = match expected {
                PodScheme::Https | PodScheme::Client if cfg!(not(feature = "tls")) => {
                    let fault = "expected http, as this psystrike is built without TLS";
                    Err(UsageError(format!("--pod-scheme {value:?}: {fault}")))
                }
                scheme => Ok(scheme),
            };
            assert_eq!(scheme, expected, "{value}");
        }
    }
}
