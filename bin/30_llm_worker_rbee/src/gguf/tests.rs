//! Hostile headers, each for one limit, and mutations of a valid one.

use proptest::prelude::*;

use super::limits::{
    MAX_ARRAY_ELEMENTS, MAX_HEADER_BYTES, MAX_KEPT_TEXT_BYTES, MAX_KEYS, MAX_TENSORS,
    MAX_TEXT_BYTES, MAX_VOCABULARY,
};
use super::sample::{Writer, model, model_with};
use super::{GgufError, Header};

/// What a file is refused for, or nothing.
fn refusal(bytes: &[u8]) -> Option<String> {
    refusal_of(bytes, bytes.len() as u64)
}

fn refusal_of(bytes: &[u8], size: u64) -> Option<String> {
    let header = Header::read(bytes, size);
    header.and_then(|header| header.check_model()).err().map(|error| error.to_string())
}

#[track_caller]
fn check_refused(bytes: &[u8], wanted: &[&str]) {
    let said = refusal(bytes).unwrap_or_else(|| panic!("accepted, and {wanted:?} was wanted"));
    for part in wanted {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}

/// A file whose only key has this value.
fn with_value(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    Writer::default().raw(key, kind, value).file(3)
}

#[test]
fn a_valid_file_is_read_whole() {
    let bytes = model();
    let header = Header::read(&bytes[..], bytes.len() as u64).unwrap();
    header.check_model().unwrap();
    let summary = header.summary(bytes.len() as u64).unwrap();
    assert_eq!(summary.architecture, "llama");
    assert_eq!(summary.name.as_deref(), Some("Sample"));
    assert_eq!(summary.context_length, 64);
    assert_eq!(summary.embedding_length, Some(32));
    assert_eq!(summary.parameters, 32 * 4 + 32 * 32 + 32);
    assert_eq!(summary.quantization, "Q8_0");
    assert!(summary.has_chat_template);
    assert_eq!(refusal(&Writer::default().file(2)), None, "version 2 without anything");
}

#[test]
fn a_projectors_width_is_that_of_what_it_gives() {
    let of = |kind: &str, tensors: &[(&str, [u64; 2])]| {
        let writer = Writer::default()
            .text("general.architecture", "clip")
            .text("clip.projector_type", kind)
            .number("clip.vision.projection_dim", 768);
        let add = |writer: Writer, (name, shape): &(&str, [u64; 2])| {
            let bytes = usize::try_from(shape[0] * shape[1] * 4).unwrap();
            writer.tensor(name, shape, 0, bytes)
        };
        let bytes = tensors.iter().fold(writer, add).file(3);
        let header = Header::read(&bytes[..], bytes.len() as u64).unwrap();
        header.summary(bytes.len() as u64).unwrap().embedding_length
    };
    for (kind, tensors, width) in [
        ("mlp", &[("mm.0.weight", [32, 64]), ("mm.2.weight", [32, 64])][..], Some(64)),
        ("mlp", &[("mm.3.weight", [32, 32]), ("mm.3.bias", [96, 1])], Some(96)),
        ("gemma3", &[("mm.input_projection.weight", [64, 32])], Some(64)),
        ("gemma4v", &[("mm.input_projection.weight", [32, 64])], Some(64)),
        ("qwen2vl_merger", &[("mm.2.weight", [32, 64]), ("mm.2.bias", [64, 1])], Some(64)),
        ("of tomorrow", &[("mm.2.weight", [32, 64])], None),
        ("internvl", &[("mm.2.weight", [32, 64])], None),
    ] {
        assert_eq!(of(kind, tensors), width, "{kind}");
    }
}

#[test]
fn every_hostile_header_is_refused_with_what_is_wrong_and_where() {
    let huge = u64::MAX.to_le_bytes();
    let text_of = |length: u64| length.to_le_bytes().to_vec();
    let array_of =
        |element: u32, length: u64| [&element.to_le_bytes()[..], &length.to_le_bytes()].concat();
    let rows: Vec<(Vec<u8>, &[&str])> = vec![
        (b"".to_vec(), &["GGUF"]),
        (b"GGU".to_vec(), &["GGUF"]),
        (b"PK\x03\x04 and more".to_vec(), &["GGUF"]),
        (b"GGUF".to_vec(), &["it ends at byte 4", "version"]),
        (Writer::default().file(1), &["version is 1"]),
        (Writer::default().file(4), &["version is 4"]),
        (Writer::default().file(0x0300_0000), &["version is 50331648", "convert"]),
        (Writer::default().file_with_counts(3, MAX_TENSORS + 1, 0), &["byte 8", "tensors"]),
        (Writer::default().file_with_counts(3, 0, MAX_KEYS + 1), &["byte 16", "keys"]),
        (Writer::default().file_with_counts(3, 0, 1), &["byte 24: a key is no plain text"]),
        (Writer::default().file_with_counts(3, 1, 0), &["it ends at byte 32", "a tensor's shape"]),
        (with_value(&"k".repeat(65_536), 7, &[1]), &["at byte 24", "65536", "65535"]),
        (with_value("", 7, &[1]), &["a key is no plain text"]),
        (with_value("a\0b", 7, &[1]), &["a key is no plain text"]),
        (with_value("a\x1b[2J", 7, &[1]), &["a key is no plain text"]),
        (with_value("k", 13, &[1]), &["there is no value type 13"]),
        (with_value("k", u32::MAX, &[1]), &["there is no value type"]),
        (with_value("k", 8, &huge), &["a text's length is 18446744073709551615"]),
        (with_value("k", 8, &text_of(MAX_TEXT_BYTES + 1)), &["at most 67108864"]),
        (with_value("k", 8, &text_of(MAX_TEXT_BYTES)), &["it ends at byte", "a text"]),
        (with_value("k", 9, &array_of(4, u64::MAX)), &["key k", "array's length"]),
        (with_value("k", 9, &array_of(4, MAX_ARRAY_ELEMENTS + 1)), &["key k", "16777216"]),
        (with_value("k", 9, &array_of(12, MAX_ARRAY_ELEMENTS)), &["it ends at byte"]),
        (with_value("k", 9, &array_of(8, MAX_ARRAY_ELEMENTS)), &["it ends at byte"]),
        (with_value("k", 9, &array_of(9, 1)), &["key k", "an array in an array"]),
        (with_value("k", 9, &array_of(99, 1)), &["there is no value type 99"]),
        (
            with_value("tokenizer.ggml.tokens", 9, &array_of(8, MAX_VOCABULARY + 1)),
            &["tokenizer.ggml.tokens", "number of tokens"],
        ),
        (model_with(|w| w.number("llama.block_count", 2)), &["llama.block_count", "twice"]),
        (
            model_with(|w| w.tensor("output_norm.weight", &[32], 0, 128)),
            &["tensor output_norm.weight", "twice"],
        ),
    ];
    for (bytes, wanted) in &rows {
        check_refused(bytes, wanted);
    }
}

#[test]
fn every_hostile_tensor_is_refused() {
    let one = |name: &str, shape: &[u64], kind, offset| {
        Writer::default().tensor_at(name, shape, kind, offset).file(3)
    };
    let rows: Vec<(Vec<u8>, &[&str])> = vec![
        (one(&"n".repeat(64), &[1], 0, 0), &["a text's length is 64", "63"]),
        (one("n\0", &[1], 0, 0), &["no plain text"]),
        (one("n", &[1; 5], 0, 0), &["tensor n", "dimensions is 5"]),
        (one("n", &[4, 0], 0, 0), &["tensor n", "dimension 1 is 0"]),
        (one("n", &[u64::MAX], 0, 0), &["too large"]),
        (one("n", &[1 << 32, 1 << 32], 0, 0), &["too large"]),
        (one("n", &[1 << 62], 28, 0), &["too large"]),
        (one("n", &[32], 4, 0), &["there is no tensor type 4"]),
        (one("n", &[32], 43, 0), &["there is no tensor type 43"]),
        (one("n", &[33], 8, 0), &["no whole Q8_0 blocks of 32"]),
        (one("n", &[32], 0, 32), &["offset 32, and 0 was next"]),
        (one("n", &[32], 0, 1), &["offset 1, and 0 was next"]),
        (one("n", &[32], 0, u64::MAX), &["and 0 was next"]),
        (one("n", &[32], 0, 0), &["header promises"]),
        (one("n", &[(1 << 59) - 1], 27, 0), &["header promises"]),
        (
            Writer::default().tensor("a", &[32], 0, 128).tensor_at("b", &[32], 0, 64).file(3),
            &["tensor b", "offset 64, and 128 was next"],
        ),
        (
            Writer::default()
                .tensor_at("a", &[i64::MAX as u64], 24, 0)
                .tensor_at("b", &[i64::MAX as u64], 24, 1 << 63)
                .tensor_at("c", &[i64::MAX as u64], 24, 1)
                .file(3),
            &["too large"],
        ),
    ];
    for (bytes, wanted) in &rows {
        check_refused(bytes, wanted);
    }
    for (alignment, wanted) in [
        (0, "no power of two"),
        (16, "no power of two"),
        (48, "no power of two"),
        (1 << 17, "at most 65536"),
        (u32::MAX, "at most 65536"),
    ] {
        let bytes = model_with(|w| w.number("general.alignment", alignment));
        check_refused(&bytes, &["general.alignment", wanted]);
    }
    check_refused(&model_with(|w| w.text("general.alignment", "32")), &["no u32"]);
}

/// A model's keys without tensors, of which one is left out for another value to come in its place.
fn keys_but(left_out: &str) -> Writer {
    let all: [(&str, u32); 5] = [
        ("llama.context_length", 64),
        ("llama.embedding_length", 32),
        ("llama.block_count", 2),
        ("llama.attention.head_count", 4),
        ("llama.attention.head_count_kv", 2),
    ];
    let writer = Writer::default().text("general.architecture", "llama");
    let kept = all.iter().filter(|(key, _)| *key != left_out);
    kept.fold(writer, |writer, (key, number)| writer.number(key, *number))
}

#[test]
fn hyperparameters_that_llama_cpp_would_end_the_process_for_are_refused() {
    let rows: [(&str, u32, &str); 22] = [
        ("llama.block_count", 0, "it is 0"),
        ("llama.block_count", 513, "at most 512"),
        ("llama.context_length", 0, "it is 0"),
        ("llama.context_length", 1 << 31, "at most 2147483647"),
        ("llama.embedding_length", 0, "it is 0"),
        ("llama.embedding_length", u32::MAX, "at most 16777216"),
        ("llama.attention.head_count", u32::MAX, "at most 65536"),
        ("llama.attention.head_count_kv", 3, "3 heads of keys and values cannot serve 4"),
        ("llama.attention.head_count_kv", u32::MAX, "at most 65536"),
        ("llama.attention.key_length", 1 << 24, "width of all heads"),
        ("llama.attention.value_length", u32::MAX, "at most 16777216"),
        ("llama.feed_forward_length", u32::MAX, "at most 16777216"),
        ("llama.vocab_size", u32::MAX, "at most 2097152"),
        ("llama.rope.dimension_count", 7, "odd"),
        ("llama.nextn_predict_layers", 3, "at most 2"),
        ("llama.expert_count", 1025, "at most 1024"),
        ("llama.expert_count", 8, "it is 0, and there are 8 experts"),
        ("llama.expert_used_count", 1, "it is 1, and there are 0 experts"),
        ("llama.expert_group_count", 1, "0 experts are not in 1 groups"),
        ("llama.ssm.state_size", u32::MAX, "at most 16777216"),
        ("llama.token_type_count", u32::MAX, "at most 65536"),
        ("llama.attention.sliding_window", u32::MAX, "at most 2147483647"),
    ];
    assert_eq!(refusal(&keys_but("").file(3)), None);
    for (key, number, wanted) in rows {
        let refused_key = if key == "llama.expert_count" && number == 8 {
            "llama.expert_used_count"
        } else {
            key
        };
        check_refused(&keys_but(key).number(key, number).file(3), &[refused_key, wanted]);
    }
    let groups = |count, used| {
        keys_but("")
            .number("llama.expert_count", 8)
            .number("llama.expert_used_count", 2)
            .number("llama.expert_group_count", count)
            .number("llama.expert_group_used_count", used)
            .file(3)
    };
    assert_eq!(refusal(&groups(4, 2)), None);
    check_refused(&groups(3, 2), &["8 experts are not in 3 groups"]);
    check_refused(&groups(8, 2), &["8 experts are not in 8 groups"]);
    check_refused(&groups(4, 4), &["it is 4, and there are 4 groups"]);
    check_refused(&groups(4, 0), &["it is 0, and there are 4 groups"]);
    let state = keys_but("")
        .number("llama.ssm.inner_size", 1 << 20)
        .number("llama.ssm.state_size", 1 << 20)
        .file(3);
    check_refused(&state, &["llama.ssm.state_size", "size of a layer's state"]);
}

#[test]
fn hyperparameters_of_another_type_or_length_are_refused() {
    let heads = "llama.attention.head_count";
    let rows = [
        (keys_but(heads).numbers(heads, &[4, 4, 4]), "3 numbers for 2 layers"),
        (keys_but(heads).numbers(heads, &[4, u32::MAX]), "at most 65536"),
        (keys_but(heads).floats(heads, &[4.0, 4.0]), "no whole numbers"),
        (keys_but(heads).text(heads, "4"), "no number"),
        (keys_but(heads).raw(heads, 5, &(-4_i32).to_le_bytes()), "no number"),
        (keys_but("").text("llama.rope.scaling.type", "su"), "none of none, linear"),
        (Writer::default().number("general.architecture", 1), "no text"),
        (Writer::default().text("general.architecture", "a b"), "no name"),
        (Writer::default().text("general.architecture", &"a".repeat(65)), "no name"),
    ];
    for (writer, wanted) in rows {
        check_refused(&writer.file(3), &[wanted]);
    }
    // A layer without attention, as hybrid models have them.
    assert_eq!(refusal(&keys_but(heads).numbers(heads, &[0, 4]).file(3)), None);
}

#[test]
fn a_vocabulary_that_contradicts_itself_is_refused() {
    let tokens = |list: &[&str]| {
        Writer::default().text("tokenizer.ggml.model", "llama").texts("tokenizer.ggml.tokens", list)
    };
    let three = || tokens(&["a", "b", "c"]);
    let (bos, eos) = ("tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id");
    let rows = [
        (tokens(&[]), "there is no token"),
        (tokens(&["a", "b", "a"]), "token 2 is there twice"),
        (tokens(&["", "[EMPTY_0]"]), "token 1 is there twice"),
        (Writer::default().text("tokenizer.ggml.tokens", "a"), "another type"),
        (Writer::default().numbers("tokenizer.ggml.tokens", &[1]), "another type"),
        (three().floats("tokenizer.ggml.scores", &[0.0; 2]), "2 entries for 3 tokens"),
        (three().texts("tokenizer.ggml.scores", &["0"; 3]), "another type"),
        (three().array("tokenizer.ggml.token_type", 5, 1, &[1, 0, 0, 0]), "1 entries for 3"),
        (three().numbers("tokenizer.ggml.token_type", &[1; 3]), "another type"),
        (three().numbers("tokenizer.ggml.merges", &[1]), "another type"),
        (three().number(bos, 3), "the token is 3, and at most 2"),
        (three().number(eos, 3), "the token is 3, and at most 2"),
        (three().text(eos, "c"), "no token"),
        (
            tokens(&["a"]).raw("tokenizer.ggml.add_bos_token", 7, &[1]),
            "add_bos_token wants it in each text",
        ),
        (
            Writer::default().text(
                "tokenizer.chat_template",
                &"x".repeat(usize::try_from(MAX_KEPT_TEXT_BYTES).unwrap() + 1),
            ),
            "chat template's length",
        ),
    ];
    for (writer, wanted) in rows {
        check_refused(&writer.file(3), &[wanted]);
    }
    assert_eq!(refusal(&three().number(bos, 2).number(eos, u32::MAX).file(3)), None);
}

#[test]
fn a_file_cut_at_any_byte_is_refused_as_cut() {
    let whole = model();
    for length in 0..whole.len() {
        let error = Header::read(&whole[..length], length as u64).unwrap_err();
        let is_cut = matches!(
            error,
            GgufError::NotGguf | GgufError::EndsEarly { .. } | GgufError::Truncated { .. }
        );
        assert!(is_cut, "{length}: {error}");
    }
}

#[test]
fn a_file_that_shrinks_while_it_is_read_is_refused() {
    let whole = model();
    let half = &whole[..whole.len() / 4];
    let error = Header::read(half, whole.len() as u64).unwrap_err();
    assert!(matches!(error, GgufError::EndsEarly { .. }), "{error}");
}

#[test]
fn a_header_is_not_read_beyond_its_limit() {
    // A file that goes on for ever with texts, each within its limit.
    struct Endless {
        head: std::io::Cursor<Vec<u8>>,
        read: u64,
    }
    impl std::io::Read for Endless {
        fn read(&mut self, room: &mut [u8]) -> std::io::Result<usize> {
            let from_head = self.head.read(room)?;
            let length = if from_head == 0 { room.len() } else { from_head };
            self.read += length as u64;
            Ok(length)
        }
    }
    let text = MAX_TEXT_BYTES.to_le_bytes();
    let head = [&b"GGUF\x03\0\0\0"[..], &[0; 8], &3_u64.to_le_bytes()].concat();
    let key = |name: &[u8]| [&1_u64.to_le_bytes(), name, &8_u32.to_le_bytes(), &text[..]].concat();
    let blank = vec![0; usize::try_from(MAX_TEXT_BYTES).unwrap()];
    let content = [head, key(b"a"), blank.clone(), key(b"b"), blank, key(b"c")].concat();
    let mut input = Endless { head: std::io::Cursor::new(content), read: 0 };
    let buffered = std::io::BufReader::new(&mut input);
    let error = Header::read(buffered, u64::MAX).unwrap_err().to_string();
    assert!(error.contains("the header's length"), "{error}");
    assert!(input.read <= MAX_HEADER_BYTES);
}

#[test]
fn names_in_errors_and_summaries_cannot_command_a_terminal() {
    let bytes = model_with(|w| w.text("general.license", "a\x1b[31mb\r\n\u{9b}c"));
    let header = Header::read(&bytes[..], bytes.len() as u64).unwrap();
    assert_eq!(header.summary(0).unwrap().license.as_deref(), Some("a[31mbc"));
    let key = format!("\u{202e}{}", "k".repeat(5000));
    let said = refusal(&with_value(&key, 9, &[9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0])).unwrap();
    assert!(said.contains("\\u{202e}kkk"), "{said}");
    assert!(said.len() < 300, "{said}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        refusal(&bytes);
        let with_magic = [b"GGUF\x03\0\0\0".as_slice(), &bytes].concat();
        refusal(&with_magic);
    }

    #[test]
    fn any_change_of_a_valid_file_is_read_or_refused(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..16),
    ) {
        let mut bytes = model();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        refusal(&bytes);
    }

    #[test]
    fn any_number_anywhere_is_read_or_refused(
        at in any::<prop::sample::Index>(),
        number in prop_oneof![
            any::<u64>(),
            (0_u32..64).prop_map(|bit| 1 << bit),
            (0_u32..64).prop_map(|bit| (1 << bit) - 1),
            (0_u32..64).prop_map(|bit| u64::MAX << bit),
        ],
        size in prop_oneof![Just(None), any::<u64>().prop_map(Some)],
    ) {
        let mut bytes = model();
        let at = at.index(bytes.len() - 8);
        bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        // The file's size is told from outside, and may be wrong as well.
        refusal_of(&bytes, size.unwrap_or(bytes.len() as u64));
    }

    #[test]
    fn what_is_accepted_lies_in_the_file(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = model();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(header) = Header::read(&bytes[..], bytes.len() as u64) {
            let data: u64 = header.tensors.iter().map(|tensor| tensor.bytes).sum();
            prop_assert!(data <= bytes.len() as u64);
        }
    }
}
