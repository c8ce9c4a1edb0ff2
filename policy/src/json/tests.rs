use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::Deserialize;

use super::{Error, Raw, Read, Reader, from_str};

#[derive(Debug, Deserialize, PartialEq)]
#[serde(untagged)]
enum Any {
    Null(()),
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Text(String),
    List(Vec<Any>),
    Map(BTreeMap<String, Any>),
}

impl Read<'_> for Any {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(match reader.peek() {
            Some(b'"') => Self::Text(reader.owned()?),
            Some(b'{') => {
                let mut map = BTreeMap::new();
                reader.object(&mut |reader, name| {
                    map.insert(name.to_owned(), Self::read(reader)?);
                    Ok(())
                })?;
                Self::Map(map)
            }
            Some(b'[') => Self::List(reader.list(Self::read)?),
            Some(b'-' | b'0'..=b'9') => match reader.integer()? {
                (false, number) => Self::Unsigned(number),
                (true, number) => {
                    let number =
                        i64::try_from(number).map_err(|_| Error::new("a number that is too large"))?;
                    if number == 0 { Self::Unsigned(0) } else { Self::Signed(-number) }
                }
            },
            Some(b't' | b'f') => Self::Bool(reader.boolean()?),
            _ => {
                reader.skip_value()?;
                Self::Null(())
            }
        })
    }
}

/// What `serde_json` reads, without what this reader refuses on purpose.
fn both(text: &str) {
    let theirs: Result<Any, _> = serde_json::from_str(text);
    let ours: Result<Any, _> = from_str(text);
    match (theirs, ours) {
        (Ok(theirs), Ok(ours)) => assert_eq!(theirs, ours, "{text}"),
        (Ok(_), Err(error)) => assert!(
            ["not an integer", "too large", "too deep"].iter().any(|why| error.to_string().contains(why)),
            "{text}: {error}"
        ),
        // `{"a":1,"a":2}` and the like are the concern of the type that is read.
        (Err(error), Ok(ours)) => panic!("{text}: we read {ours:?}, they say {error}"),
        (Err(_), Err(_)) => {}
    }
}

#[test]
fn as_serde_json_reads_it() {
    for text in [
        "null",
        "true",
        "false",
        "0",
        "-1",
        "18446744073709551615",
        "\"\"",
        "[]",
        "{}",
        " [ 1 , 2 ] ",
        r#"{"a":{"b":[null,"x"]}}"#,
        r#""\"\\\/\b\f\n\r\t\u0041\ud83d\ude00""#,
        "\"é😀\"",
        "",
        "nul",
        "truex",
        "tru",
        "01",
        "+1",
        "-",
        "1.5",
        "1e3",
        "18446744073709551616",
        "-9223372036854775809",
        "\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\ud800\"",
        "\"\\ud800\\u0041\"",
        "\"\\udc00\"",
        "\"\n\"",
        "[1,]",
        "[,1]",
        "[1 2]",
        "[1",
        "{",
        "{\"a\"}",
        "{\"a\":}",
        "{a:1}",
        "{\"a\":1,}",
        "{1:2}",
        "[] []",
        "1 2",
        "\u{feff}1",
        "[1}",
        "{\"a\":1]",
        "nullnull",
        "\u{a0}1",
    ] {
        both(text);
    }
    both(&"[".repeat(1000));
}

#[test]
fn errors_say_where() {
    for (text, expected) in [
        ("{\n  \"a\": x}", "not a value at line 2 column 8"),
        ("[1] 2", "something after the end at line 1 column 5"),
    ] {
        assert_eq!(from_str::<Any>(text).expect_err("bad").to_string(), expected);
    }
    let error = from_str::<crate::Document>(r#"{"apiVersion":"egress-policy/v1","x":1}"#).expect_err("bad");
    assert_eq!(error.to_string(), "unknown field `x` at line 1 column 38");
}

#[test]
fn a_raw_value_is_its_text() {
    let text = r#"{"plugin": "http", "version": "v", "policy": {"b" : [1, "}"]} , "httpDenyStatus":404}"#;
    let config: crate::PluginConfig<Raw<'_>> = from_str(text).expect("valid");
    assert_eq!(config.policy.get(), r#"{"b" : [1, "}"]}"#);
    assert!(from_str::<Raw<'_>>("[1").is_err());
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        ".*".prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(serde_json::Value::from),
            prop::collection::btree_map(".*", inner, 0..6)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn reads_what_serde_json_writes(value in json(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.expect("writes");
        both(&text);
    }

    #[test]
    fn agrees_on_damaged_text(value in json(), at in any::<prop::sample::Index>(), with in "[\\[\\]{}\",:0-9a-z\\\\ -]?") {
        let mut text: Vec<char> = value.to_string().chars().collect();
        let at = at.index(text.len());
        text.splice(at..=at, with.chars());
        both(&text.into_iter().collect::<String>());
    }
}
