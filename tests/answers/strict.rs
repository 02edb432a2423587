//! A parser of responses that accepts only one spelling of everything, so that each response it accepts has one
//! meaning.

/// A response.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The body, decoded.
    pub(crate) body: Vec<u8>,
    /// Whether it has `close`: no other response may follow.
    pub(crate) is_last: bool,
}

/// The reason why a response is invalid or incomplete.
pub(crate) const CUT_SHORT: &str = "cut short";

/// Parses the response at the start of `bytes`, which are all bytes before the connection's `end`. Returns the bytes
/// after it too.
pub(crate) fn answer<'b>(bytes: &'b [u8], end: &Result<(), String>) -> Result<(Answer, &'b [u8]), String> {
    let at = find(bytes, b"\r\n\r\n").ok_or(CUT_SHORT)?;
    let (head, rest) = (&bytes[..at], &bytes[at + 4..]);
    let mut lines = split(head).into_iter();
    let status = status_line(lines.next().unwrap_or_default())?;
    let (mut length, mut chunked, mut is_last) = (None, false, false);
    for line in lines {
        let (name, value) = field(line)?;
        match name.as_str() {
            "content-length" if length.is_some() => return Err("two lengths".into()),
            "content-length" => length = Some(number(value)?),
            "transfer-encoding" if chunked || !value.eq_ignore_ascii_case(b"chunked") => {
                return Err("another coding".into());
            }
            "transfer-encoding" => chunked = true,
            "connection" if value != b"close".as_slice() => {
                return Err("another option of the connection".into());
            }
            "connection" => is_last = true,
            _ => {}
        }
    }
    let (body, rest) = match (status, chunked, length) {
        (_, true, Some(_)) => return Err("a length beside chunked".into()),
        (100..=199 | 204, true, _) | (100..=199 | 204, _, Some(_)) => {
            return Err("a length although there is no body".into());
        }
        (100..=199 | 204 | 304, ..) => (Vec::new(), rest),
        (_, true, None) => chunks(rest)?,
        (_, false, Some(length)) => {
            let (body, rest) = rest.split_at_checked(length).ok_or(CUT_SHORT)?;
            (body.to_vec(), rest)
        }
        (_, false, None) if !is_last => return Err("a body until close, without close".into()),
        (_, false, None) => {
            end.as_ref().map_err(|_| CUT_SHORT)?;
            (rest.to_vec(), &rest[rest.len()..])
        }
    };
    if is_last && !rest.is_empty() {
        return Err("bytes after the last response".into());
    }
    Ok((Answer { status, body, is_last }, rest))
}

fn status_line(line: &[u8]) -> Result<u16, String> {
    let reason = match line {
        [
            b'H',
            b'T',
            b'T',
            b'P',
            b'/',
            b'1',
            b'.',
            b'1',
            b' ',
            b'1'..=b'5',
            b'0'..=b'9',
            b'0'..=b'9',
            b' ',
            reason @ ..,
        ] => reason,
        _ => return Err(format!("the status line {:?}", line.escape_ascii().to_string())),
    };
    text(reason)?;
    Ok(String::from_utf8_lossy(&line[9..12]).parse().expect("three digits"))
}

/// A field's name, in lower case, and its value.
fn field(line: &[u8]) -> Result<(String, &[u8]), String> {
    let colon = find(line, b":").ok_or("a line without a colon")?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    if name.is_empty() || !name.iter().all(is_token) {
        return Err("a name that is not a token".into());
    }
    text(value)?;
    Ok((String::from_utf8_lossy(name).to_ascii_lowercase(), value.trim_ascii()))
}

fn text(bytes: &[u8]) -> Result<(), String> {
    let is_text = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f);
    if bytes.iter().all(is_text) { Ok(()) } else { Err("a control character".into()) }
}

fn number(digits: &[u8]) -> Result<usize, String> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let number = is_number.then(|| String::from_utf8_lossy(digits).parse().ok()).flatten();
    number.ok_or_else(|| "no number".into())
}

/// Decodes the chunked coding: digits and CRLF, data and CRLF, and trailer fields.
fn chunks(mut bytes: &[u8]) -> Result<(Vec<u8>, &[u8]), String> {
    let mut body = Vec::new();
    loop {
        let line = line(&mut bytes)?;
        if line.is_empty() || line.len() > 16 || !line.iter().all(u8::is_ascii_hexdigit) {
            return Err(format!("the chunk line {:?}", line.escape_ascii().to_string()));
        }
        let size =
            usize::from_str_radix(&String::from_utf8_lossy(line), 16).map_err(|_| "a size over 64 bits")?;
        if size == 0 {
            break;
        }
        let (data, rest) = bytes.split_at_checked(size).ok_or(CUT_SHORT)?;
        body.extend_from_slice(data);
        bytes = rest;
        if !line_is_empty(&mut bytes)? {
            return Err("a chunk longer than its size".into());
        }
    }
    while let trailer = line(&mut bytes)?
        && !trailer.is_empty()
    {
        field(trailer)?;
    }
    Ok((body, bytes))
}

fn line_is_empty(bytes: &mut &[u8]) -> Result<bool, String> {
    // Without CRLF here, the number of bytes is unknown.
    if bytes.len() >= 2 && !bytes.starts_with(b"\r\n") {
        Ok(false)
    } else {
        line(bytes).map(<[u8]>::is_empty)
    }
}

fn line<'b>(bytes: &mut &'b [u8]) -> Result<&'b [u8], String> {
    let at = find(bytes, b"\r\n").ok_or(CUT_SHORT)?;
    let line = &bytes[..at];
    *bytes = &bytes[at + 2..];
    Ok(line)
}

fn split(head: &[u8]) -> Vec<&[u8]> {
    let mut rest = head;
    let mut lines = Vec::new();
    while let Some(at) = find(rest, b"\r\n") {
        lines.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    lines.push(rest);
    lines
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
