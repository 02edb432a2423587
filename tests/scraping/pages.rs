//! A page of metrics, and the responses that contain it.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};

/// Every kind of value and of character that the text format has.
pub const PAGE: &str = r#"# HELP pod_requests_total Requests.
# TYPE pod_requests_total counter
pod_requests_total{code="200",path="/a b"} 1.2345678e+07
pod_requests_total{code="500",path="C:\\\"quoted\"\nnext"} 0
# HELP pod_duration_seconds Durations.
# TYPE pod_duration_seconds histogram
pod_duration_seconds_bucket{le="0.005"} 3
pod_duration_seconds_bucket{le="+Inf"} 7
pod_duration_seconds_sum 0.125
pod_duration_seconds_count 7
# HELP pod_state States, 日本 among them.
# TYPE pod_state gauge
pod_state{zone="日本"} NaN
pod_state{zone="above"} +Inf
pod_state{zone="below"} -Inf
pod_state{zone=""} -273.15
"#;

pub const FIELDS: &str = "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n";

pub fn content_length(page: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{FIELDS}Content-Length: {}\r\n\r\n{page}", page.len())
}

/// In pieces of growing size, with extensions and a trailer.
pub fn chunked(page: &str) -> Vec<u8> {
    let mut answer = format!("HTTP/1.1 200 OK\r\n{FIELDS}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
    let (mut rest, mut size) = (page.as_bytes(), 1);
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(size.min(rest.len()));
        write!(answer, "{:X};piece;of=\"a;page\"\r\n", piece.len()).unwrap();
        answer.extend_from_slice(piece);
        answer.extend_from_slice(b"\r\n");
        rest = after;
        size = (size * 3).min(100_000);
    }
    answer.extend_from_slice(b"0\r\nX-Page-Checksum: none\r\n\r\n");
    answer
}

pub fn until_close(version: &str, page: &str) -> String {
    format!("{version} 200 OK\r\n{FIELDS}\r\n{page}")
}

pub fn gzip(page: &str) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(page.as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    let fields = format!("{FIELDS}Content-Encoding: gzip\r\nContent-Length: {}\r\n", packed.len());
    [format!("HTTP/1.1 200 OK\r\n{fields}\r\n").as_bytes(), &packed].concat()
}

pub fn half_of(answer: impl AsRef<[u8]>) -> Vec<u8> {
    let answer = answer.as_ref();
    let head_length = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
    answer[..head_length + (answer.len() - head_length) / 2].to_vec()
}

pub const NOT_FOUND: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
