//! What Go's net/http, which most exporters use, sends for a page of unknown length.

/// What it writes at once.
pub(crate) const PORTION: usize = 4096;
/// The content of its chunks.
const CHUNK: usize = 2048;

/// Returns the bytes of a response with this page, which is ASCII.
pub(crate) fn response(page: &str) -> String {
    let chunks = page.as_bytes().chunks(CHUNK);
    let chunks = chunks.map(|chunk| format!("{:x}\r\n{}\r\n", chunk.len(), String::from_utf8_lossy(chunk)));
    let head = "HTTP/1.1 200 OK\r\nDate: now\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
    head + &chunks.collect::<String>() + "0\r\n\r\n"
}
