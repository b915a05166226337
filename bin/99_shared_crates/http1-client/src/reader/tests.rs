use proptest::prelude::*;

use super::*;

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: x\r\n";

#[test]
fn a_body_ends_as_its_head_says() {
    let chunks = "5\r\nhello\r\n1;x=y\r\n \r\nA \r\n0123456789\r\n0\r\nx: y\r\n\r\n";
    let text = format!("{HEAD}transfer-encoding: chunked\r\n\r\n{chunks}");
    check(&text, "hello 0123456789", true);
    check(&format!("{HEAD}content-length: 5\r\n\r\nhello"), "hello", true);
    check(&format!("{HEAD}content-length: 0\r\n\r\n"), "", true);
    check(&format!("HTTP/1.1 100 Continue\r\n\r\n{HEAD}content-length: 1\r\n\r\n!"), "!", true);
    check(&format!("{HEAD}content-length: 1\r\nconnection: close\r\n\r\n!"), "!", false);
    let mut reader = AnswerReader::default();
    let body = feed(&mut reader, &format!("{HEAD}\r\nhello"), 3).unwrap();
    assert_eq!((body.as_str(), reader.is_ended()), ("hello", false));
    reader.closed().unwrap();
    assert!(reader.is_ended() && !reader.is_kept());
}

#[test]
fn an_answer_that_is_cut_is_not_whole() {
    let head = format!("{HEAD}transfer-encoding: chunked\r\n\r\n");
    let whole = format!("{head}5\r\nhello\r\n0\r\n\r\n");
    for length in 0..whole.len() {
        let mut reader = AnswerReader::default();
        feed(&mut reader, &whole[..length], 7).unwrap();
        assert!(!reader.is_ended() && !reader.is_kept());
        let has_begun = length >= head.len();
        let expected = if has_begun { Malformed::Incomplete } else { Malformed::NoAnswer };
        assert_eq!(reader.closed(), Err(expected), "{length} bytes");
    }
}

#[test]
fn what_comes_after_the_end_is_no_answer_to_the_next_request() {
    for end in ["content-length: 1\r\n\r\n!", "transfer-encoding: chunked\r\n\r\n0\r\n\r\n"] {
        let mut reader = AnswerReader::default();
        feed(&mut reader, &format!("{HEAD}{end}HTTP/1.1 200 OK\r\n"), 1000).unwrap();
        assert!(reader.is_ended() && !reader.is_kept());
    }
}

#[test]
fn what_is_no_answer_is_refused() {
    let long = "0".repeat(10_000);
    let trailers = format!("0\r\n{}", "x: yyyyyyyyyyyyyyy\r\n".repeat(10_000));
    for chunks in
        ["x\r\n", "\r\n", "1\n!\r\n", "1\r\n!!\r\n", "fffffffffffffffff\r\n", &long, &trailers]
    {
        let mut reader = AnswerReader::default();
        let text = format!("{HEAD}transfer-encoding: chunked\r\n\r\n{chunks}");
        let fed = feed(&mut reader, &text, 1000);
        assert_eq!(fed, Err(Malformed::Chunk), "{:?}", &chunks[..chunks.len().min(20)]);
    }
    let interim = "HTTP/1.1 102 Processing\r\n\r\n".repeat(17);
    assert_eq!(feed(&mut AnswerReader::default(), &interim, 9), Err(Malformed::LongHead));
    let switch = "HTTP/1.1 101 Switching Protocols\r\n\r\n";
    assert_eq!(feed(&mut AnswerReader::default(), switch, 9), Err(Malformed::Head));
}

proptest! {
    #[test]
    fn an_answer_is_the_same_however_its_bytes_are_cut(
        chunks in prop::collection::vec("[a-z\r\n]{1,30}", 0..6),
        is_chunked in any::<bool>(),
        step in 1_usize..40,
    ) {
        let body = chunks.concat();
        let text = if is_chunked {
            let coded = chunks.iter().fold(String::new(), |coded, chunk| {
                format!("{coded}{:x}\r\n{chunk}\r\n", chunk.len())
            });
            format!("{HEAD}transfer-encoding: chunked\r\n\r\n{coded}0\r\n\r\n")
        } else {
            format!("{HEAD}content-length: {}\r\n\r\n{body}", body.len())
        };
        let mut reader = AnswerReader::default();
        prop_assert_eq!(feed(&mut reader, &text, step).unwrap(), body);
        prop_assert!(reader.is_kept());
    }

    #[test]
    fn nothing_that_comes_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut reader = AnswerReader::default();
        let _ = reader.feed(&bytes, &mut |_| ());
        let mut reader = AnswerReader::default();
        reader.feed(HEAD.as_bytes(), &mut |_| ()).unwrap();
        let _ = reader.feed(b"transfer-encoding: chunked\r\n\r\n", &mut |_| ());
        let _ = reader.feed(&bytes, &mut |_| ());
    }
}

fn check(text: &str, body: &str, is_kept: bool) {
    for step in 1..=text.len() {
        let mut reader = AnswerReader::default();
        assert_eq!(feed(&mut reader, text, step).unwrap(), body, "{step} bytes at once of {text}");
        assert!(reader.is_ended() && reader.is_kept() == is_kept, "{text}");
    }
}

fn feed(reader: &mut AnswerReader, text: &str, step: usize) -> Result<String, Malformed> {
    let mut body = Vec::new();
    for piece in text.as_bytes().chunks(step) {
        reader.feed(piece, &mut |part| body.extend_from_slice(part))?;
    }
    Ok(String::from_utf8(body).unwrap())
}
