//! psystrike: forwards Prometheus's scrapes to pods that it cannot reach.
pub mod config;
pub mod http1;
pub mod logging;
pub mod net;
pub mod proxy;
