//! Jinja as Hugging Face's `apply_chat_template` runs it
//! (<https://huggingface.co/docs/transformers/chat_templating>): `trim_blocks`, `lstrip_blocks`, loop
//! controls, Python's string methods, `raise_exception`, `strftime_now`, `generation` blocks, and a
//! `tojson` that is Python's `json.dumps`.

use std::io;

use jiff::ZonedDateTime;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind};
use serde::Serialize as _;

/// What a template may compute, in minijinja's units: an instruction, or some bytes of text.
const FUEL: u64 = 10_000_000;

/// The longest prompt, in bytes. No context holds as much.
const LONGEST_PROMPT: usize = 16 * 1024 * 1024;

/// One compiled template.
#[derive(Debug)]
pub(super) struct Jinja {
    environment: Environment<'static>,
}

const NAME: &str = "chat";

impl Jinja {
    pub(super) fn new(source: &str) -> Result<Self, Error> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
        environment.set_syntax(syntax);
        environment.set_fuel(Some(FUEL));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: String| -> Result<String, Error> {
            jiff::fmt::strtime::format(&format, &ZonedDateTime::now())
                .map_err(|e| Error::new(ErrorKind::InvalidOperation, e.to_string()))
        });
        environment.add_filter("tojson", tojson);
        environment.add_template_owned(NAME, without_generation_blocks(source))?;
        Ok(Self { environment })
    }

    /// The text that the template makes of a context.
    pub(super) fn render(&self, context: Value) -> Result<String, Error> {
        let mut out = Bounded(Vec::new());
        self.environment.get_template(NAME)?.render_captured_to(context, &mut out)?;
        String::from_utf8(out.0)
            .map_err(|_| Error::new(ErrorKind::BadSerialization, "the output is not UTF-8"))
    }
}

/// `{% generation %}` marks the assistant's words for training, and means nothing here.
fn without_generation_blocks(source: &str) -> String {
    let mut source = source.to_owned();
    for (block, plain) in [("generation", "if true"), ("endgeneration", "endif")] {
        for open in ["{%", "{%-", "{%+"] {
            for close in ["%}", "-%}", "+%}"] {
                let block = format!("{open} {block} {close}");
                source = source.replace(&block, &format!("{open} {plain} {close}"));
            }
        }
    }
    source
}

/// Output with an end.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > LONGEST_PROMPT {
            let reason = format!("the prompt would have more than {LONGEST_PROMPT} bytes");
            return Err(io::Error::other(reason));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `json.dumps(value, ensure_ascii=False, indent=…, separators=…, sort_keys=…)`, as transformers
/// defines the filter. Unlike Jinja's own it escapes nothing for HTML.
#[expect(clippy::needless_pass_by_value, reason = "filters are given their arguments")]
fn tojson(value: Value, indent: Option<Value>, options: Kwargs) -> Result<String, Error> {
    let failed = |e: serde_json::Error| Error::new(ErrorKind::BadSerialization, e.to_string());
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get("indent")?,
    };
    let indent = indent.filter(|indent| !indent.is_none()).map(usize::try_from).transpose()?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sorted = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let mut json = serde_json::to_value(&value).map_err(failed)?;
    if sorted {
        json.sort_all_objects();
    }
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => {
            return Err(Error::new(ErrorKind::InvalidOperation, "separators are two texts"));
        }
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let style =
        Python { item, key, indent: indent.map(|n| n.min(16)), ascii, depth: 0, empty: true };
    let mut out = Vec::new();
    json.serialize(&mut serde_json::Serializer::with_formatter(&mut out, style)).map_err(failed)?;
    String::from_utf8(out).map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))
}

/// JSON as Python writes it.
struct Python {
    item: String,
    key: String,
    indent: Option<usize>,
    ascii: bool,
    depth: usize,
    /// Whether the innermost container has nothing in it so far.
    empty: bool,
}

impl Python {
    fn open<W: io::Write + ?Sized>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.empty = true;
        out.write_all(bracket)
    }

    fn close<W: io::Write + ?Sized>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if !self.empty {
            self.line(out)?;
        }
        self.empty = false;
        out.write_all(bracket)
    }

    fn separate<W: io::Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if !first {
            out.write_all(self.item.as_bytes())?;
        }
        self.line(out)
    }

    fn line<W: io::Write + ?Sized>(&self, out: &mut W) -> io::Result<()> {
        let Some(indent) = self.indent else { return Ok(()) };
        out.write_all(b"\n")?;
        (0..self.depth * indent).try_for_each(|_| out.write_all(b" "))
    }
}

impl serde_json::ser::Formatter for Python {
    fn begin_array<W: io::Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b"[")
    }
    fn end_array<W: io::Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b"]")
    }
    fn begin_array_value<W: io::Write + ?Sized>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.separate(out, first)
    }
    fn end_array_value<W: io::Write + ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        self.empty = false;
        Ok(())
    }
    fn begin_object<W: io::Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b"{")
    }
    fn end_object<W: io::Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b"}")
    }
    fn begin_object_key<W: io::Write + ?Sized>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.separate(out, first)
    }
    fn begin_object_value<W: io::Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(self.key.as_bytes())
    }
    fn end_object_value<W: io::Write + ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        self.empty = false;
        Ok(())
    }
    fn write_string_fragment<W: io::Write + ?Sized>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if !self.ascii {
            return out.write_all(fragment.as_bytes());
        }
        for c in fragment.chars() {
            if c.is_ascii() {
                write!(out, "{c}")?;
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use minijinja::context;

    fn render(source: &str) -> Result<String, Error> {
        let value = Value::from(minijinja::value::Serde(
            serde_json::json!({"b": ["<é&'>", 1.5, null], "a": {}, "c": []}),
        ));
        Jinja::new(source)?.render(context! { value })
    }

    #[test]
    fn tojson_writes_what_pythons_json_dumps_writes() {
        let cases = [
            ("value | tojson", r#"{"b": ["<é&'>", 1.5, null], "a": {}, "c": []}"#),
            (
                "value | tojson(indent=2)",
                "{\n  \"b\": [\n    \"<é&'>\",\n    1.5,\n    null\n  ],\n  \"a\": {},\n  \"c\": []\n}",
            ),
            ("value | tojson(separators=(',', ':'))", r#"{"b":["<é&'>",1.5,null],"a":{},"c":[]}"#),
            (
                "value | tojson(ensure_ascii=true, sort_keys=true)",
                r#"{"a": {}, "b": ["<\u00e9&'>", 1.5, null], "c": []}"#,
            ),
            ("(value | tojson)[:-1] ~ 'x'", r#"{"b": ["<é&'>", 1.5, null], "a": {}, "c": []x"#),
        ];
        for (expression, wanted) in cases {
            assert_eq!(render(&format!("{{{{ {expression} }}}}")).unwrap(), wanted, "{expression}");
        }
    }

    #[test]
    fn generation_blocks_are_only_their_contents() {
        assert_eq!(render("a {%- generation -%} b {% endgeneration %}c").unwrap(), "ab c");
    }

    #[test]
    fn a_template_without_end_ends() {
        let loops =
            "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}";
        let doubles = concat!(
            "{% set ns = namespace(t='xxxxxxxxxxxxxxxx') %}",
            "{% for a in range(60) %}{% set ns.t = ns.t ~ ns.t %}{% endfor %}{{ ns.t }}",
        );
        assert!(render(loops).is_err());
        assert!(render(doubles).is_err());
    }
}
