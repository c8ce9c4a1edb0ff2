use serde_json::json;

use super::*;

fn values(text: &str) -> Vec<Value> {
    parse(text).unwrap_or_else(|e| panic!("{e:?}: {text}")).into_iter().map(|d| d.value).collect()
}

#[test]
fn yaml_and_json_are_read_as_json_values() {
    for (name, text, expected) in [
        ("nothing", "", vec![]),
        ("comments", "# a\n---\n# b\n---\n", vec![]),
        ("byte order mark", "\u{feff}a: 1", vec![json!({"a": 1})]),
        ("two documents", "a: 1\n---\nb: 2\n...\n", vec![json!({"a": 1}), json!({"b": 2})]),
        ("json", r#"{"a": [1, "x", null, true]}"#, vec![json!({"a": [1, "x", null, true]})]),
        ("json with tabs", "{\n\t\"a\": {\n\t\t\"b\": 1\n\t}\n}\n", vec![json!({"a": {"b": 1}})]),
        ("json in a line", r#"{"a":"b","c":["d","e"]}"#, vec![json!({"a": "b", "c": ["d", "e"]})]),
        (
            "json with halves of characters",
            r#"{"a": "\ud83d\ude00 \\ud83d", "b": "\u00e9\\\"\/"}"#,
            vec![json!({"a": "\u{1f600} \\ud83d", "b": "é\\\"/"})],
        ),
        ("a stream of json", "{\"a\": 1}{\"b\": 2}\n[3]", vec![json!({"a": 1}), json!({"b": 2}), json!([3])]),
        ("windows line ends", "a:\r\n- 1\r\n", vec![json!({"a": [1]})]),
        ("quoted", "a: '1'\nb: \"true\"\n", vec![json!({"a": "1", "b": "true"})]),
        ("tagged", "a: !!str 1\nb: !!int 2\nc: ! 3", vec![json!({"a": "1", "b": 2, "c": "3"})]),
        ("block", "a: |\n  x\n  y\n", vec![json!({"a": "x\ny\n"})]),
        ("alias", "a: &x [1, 2]\nb: *x\n", vec![json!({"a": [1, 2], "b": [1, 2]})]),
        (
            "anchors end with their document",
            "a: &x 1\n---\nb: &x 2\nc: *x\n",
            vec![json!({"a": 1}), json!({"b": 2, "c": 2})],
        ),
        ("key that is a number", "80: x", vec![json!({"80": "x"})]),
    ] {
        assert_eq!(values(text), expected, "{name}");
    }
}

#[test]
fn values_in_a_json_stream_keep_their_positions() {
    let documents = parse("{\"a\": 1} {\n  \"b\": 2} {\"c\": 3}").expect("valid");
    let source_map: Vec<_> = documents
        .iter()
        .zip(["a", "b", "c"])
        .map(|(document, field)| document.source_map.find(field).map(|at| (at.line, at.column)))
        .collect();
    assert_eq!(source_map, [Some((1, 2)), Some((2, 3)), Some((2, 12))]);
    let error = parse("{\"a\": 1}\n{\"b\": 1, \"b\": 2}").expect_err("twice");
    assert_eq!(error.position.map(|at| (at.line, at.column)), Some((2, 10)));
}

#[test]
fn unsupported_yaml_is_refused_with_its_position() {
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    let deeper = "[".repeat(100_000);
    let block = (0..200).map(|i| format!("{}a:\n", " ".repeat(i))).collect::<String>();
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..10 {
        let alias = format!("*a{}", i - 1);
        bomb.push_str(&format!("a{i}: &a{i} [{}]\n", [alias.as_str(); 10].join(", ")));
    }
    let mut out = String::new();
    for (name, text) in [
        ("duplicate key", "a:\n  b: 1\n  c: 2\n  b: 3\n"),
        ("duplicate key in json", r#"{"a": 1, "a": 2}"#),
        ("duplicate key, quoted once", "a: 1\n\"a\": 2\n"),
        ("key that is a list", "? [a, b]\n: c\n"),
        ("merge key", "a: &a {b: 1}\nc:\n  <<: *a\n"),
        ("tab", "a:\n\tb: 1\n"),
        ("bracket", "a: [1, 2\nb: 3\n"),
        ("indentation", "a:\n    b: 1\n  c: 2\n"),
        ("quote", "a: \"b\nc: 1\n"),
        ("unknown alias", "a: *x\n"),
        ("alias within itself", "a: &x [1, *x]\n"),
        ("own tag", "a: !secret b\n"),
        ("own tag on a list", "a: !x [1]\n"),
        ("tag of another type", "a: !!int b\n"),
        ("not finite", "a: .inf\n"),
        ("nested in brackets", &deep),
        ("nested in very many brackets", &deeper),
        ("nested in blocks", &block),
        ("alias bomb", &bomb),
    ] {
        let error = parse(text).expect_err(name);
        let Position { line, column } = error.position.expect(name);
        out.push_str(&format!("{name}: {line}:{column}: {}; {}\n", error.message, error.advice));
    }
    insta::assert_snapshot!(out);
}

#[test]
fn bytes_that_are_not_utf8_are_refused_with_their_position() {
    let error = parse_bytes(b"a: 1\nb: \xff\n").expect_err("not UTF-8");
    assert_eq!(error.position, Some(Position { line: 2, column: 4 }));
    assert_eq!(error.message, "the text is not UTF-8");
    let error = parse_bytes(&vec![b'#'; MAX_BYTES + 1]).expect_err("too large");
    assert_eq!(error.message, "the file is larger than 32 MiB");
}

#[test]
fn a_file_of_very_many_values_is_refused() {
    for (name, text) in
        [("in brackets", format!("[{}]", "1,".repeat(MAX_NODES))), ("in lines", "- 1\n".repeat(MAX_NODES))]
    {
        let error = parse(&text).expect_err(name);
        assert_eq!(error.message, "the file has more than 1000000 values", "{name}");
    }
}
