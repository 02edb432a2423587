//! psystrike: forwards Prometheus's scrapes to pods that it cannot reach.
pub mod http1;
pub mod proxy;
