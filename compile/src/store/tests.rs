use super::*;

fn namespace(name: &str, value: &str) -> String {
    format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{is: v{value}}}}}\n")
}

fn write(store: &mut Store, file: &str, text: &str) -> bool {
    store.apply(FileUpdate::read(file.into(), text.as_bytes()))
}

fn names(store: &Store) -> Vec<String> {
    store
        .index()
        .objects
        .values()
        .map(|o| {
            let label = o.metadata.labels.as_ref().and_then(|l| l.get("is")).cloned().unwrap_or_default();
            format!("{}={label}", o.reference.name)
        })
        .collect()
}

fn diagnostics(store: &Store) -> Vec<String> {
    store.diagnostics().map(|p| p.to_string()).collect()
}

#[test]
fn a_file_is_replaced_as_a_whole() {
    let mut store = Store::default();
    assert!(write(&mut store, "a", &(namespace("x", "1") + &namespace("y", "1"))));
    assert!(!write(&mut store, "a", &(namespace("x", "1") + &namespace("y", "1"))));
    assert!(write(&mut store, "a", &namespace("y", "2")));
    assert_eq!(names(&store), ["y=v2"]);
    assert!(store.apply(FileUpdate { file: "a".into(), change: Change::Removed }));
    assert!(!store.apply(FileUpdate { file: "a".into(), change: Change::Removed }));
    assert!(store.is_empty());
}

#[test]
fn an_unreadable_file_keeps_its_objects() {
    let mut store = Store::default();
    write(&mut store, "a", &namespace("x", "1"));
    assert!(write(&mut store, "a", &(namespace("y", "1") + "---\n]\n")));
    assert_eq!(names(&store), ["x=v1"]);
    assert_eq!(diagnostics(&store).len(), 1);
    assert!(
        diagnostics(&store)[0].contains("(the file's last valid content stays in force)"),
        "{:?}",
        diagnostics(&store)
    );
    // Its last valid content stays in force, whether it gets worse or better.
    write(&mut store, "a", "[");
    assert_eq!(names(&store), ["x=v1"]);
    write(&mut store, "a", &namespace("y", "1"));
    assert_eq!(names(&store), ["y=v1"]);
    assert!(diagnostics(&store).is_empty());
}

#[test]
fn a_file_that_was_never_readable_has_no_objects() {
    let mut store = Store::default();
    assert!(write(&mut store, "a", &(namespace("x", "1") + "---\n]\n")));
    assert!(store.is_empty());
    assert!(!diagnostics(&store)[0].contains("before"));
}

#[test]
fn the_first_definition_applies() {
    let mut store = Store::default();
    write(&mut store, "b.yaml", &(namespace("x", "b") + &namespace("x", "c")));
    assert_eq!(names(&store), ["x=vb"]);
    // Whichever is read first: order of files, not of events.
    write(&mut store, "a.yaml", &namespace("x", "a"));
    assert_eq!(names(&store), ["x=va"]);
    assert_eq!(
        diagnostics(&store),
        [
            "b.yaml:2:1: error: Namespace x: duplicate definition; the one in `a.yaml:2` applies\n    help: remove one of the two",
            "b.yaml:6:1: error: Namespace x: duplicate definition; the one in `a.yaml:2` applies\n    help: remove one of the two",
        ]
    );
    store.apply(FileUpdate { file: "a.yaml".into(), change: Change::Removed });
    assert_eq!(names(&store), ["x=vb"]);
}

#[test]
fn overlaid_objects_replace_those_of_the_same_name() {
    let object = |name: &str, host: &str| {
        format!(
            "apiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\nmetadata: {{name: {name}, namespace: n}}\n\
             spec:\n  sources: [{{kind: ServiceAccount, name: a, namespace: n}}]\n  hosts: [{host}]\n  \
             ports: [{{number: 443, protocol: https}}]\n"
        )
    };
    let store = |texts: &[String]| {
        let mut store = Store::default();
        store.apply(FileUpdate::read("a.yaml".into(), texts.join("---\n").as_bytes()));
        store
    };
    let base = store(&[object("one", "a.org"), object("two", "b.org")]);
    let all = base.overlay(&store(&[object("two", "c.org"), object("three", "d.org")]));
    let index = all.index();
    let names: Vec<String> = index.objects.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["Egress n/one", "Egress n/three", "Egress n/two"]);
    assert!(index.duplicates.is_empty());
    assert_eq!(base.overlay(&Store::default()), base);
}
