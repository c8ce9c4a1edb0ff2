//! Real files in real folders. Every test waits for what it expects, and fails when that never comes.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use super::*;
use egress_compile::store::Store;
use egress_core::source::Availability;

fn namespace(name: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n")
}

fn names(store: &Store) -> Vec<String> {
    store.index().objects.keys().map(|object| object.name.clone()).collect()
}

fn loaded(dir: &Path) -> Vec<String> {
    names(&Folder::load_once(dir).store)
}

struct Watched {
    folder: Folder,
    states: Receiver<SourceState>,
}

impl Watched {
    fn new(dir: &Path) -> Self {
        Self::of(Folder::watch(dir))
    }

    fn of(folder: std::io::Result<Folder>) -> Self {
        let folder = folder.expect("a thread");
        let states = folder.states();
        Self { folder, states }
    }

    async fn wait(&mut self, what: &str, holds: impl Fn(&SourceState) -> bool) -> SourceState {
        let waited =
            tokio::time::timeout(Duration::from_secs(30), self.states.wait_for(|state| holds(state)));
        let found = waited.await.map(|state| state.expect("the thread lives").clone());
        match found {
            Ok(state) => state,
            Err(_) => panic!("never came: {what}; now: {:?}", names(&self.states.borrow().store)),
        }
    }

    async fn wait_for_names(&mut self, expected: &[&str]) -> SourceState {
        self.wait(&format!("{expected:?}"), |state| names(&state.store) == expected).await
    }
}

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn write(dir: &Path, file: &str, text: &str) {
    let path = dir.join(file);
    fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    fs::write(path, text).expect("written");
}

#[test]
fn what_is_read() {
    let dir = dir();
    for file in ["a.yaml", "b.yml", "c.json", "sub/d.yaml", "sub/sub/e.yaml"] {
        write(
            dir.path(),
            file,
            &namespace(&Path::new(file).file_stem().unwrap_or_default().to_string_lossy()),
        );
    }
    for file in [".x.yaml", "x.yaml~", "#x.yaml#", ".#x.yaml", "x.txt", ".git/x.yaml", "x.yaml.swp"] {
        write(dir.path(), file, &namespace("x"));
    }
    assert_eq!(loaded(dir.path()), ["a", "b", "c", "d", "e"]);
}

#[test]
fn links_are_followed_but_not_in_circles() {
    let (dir, elsewhere) = (dir(), dir());
    write(elsewhere.path(), "a.yaml", &namespace("a"));
    write(elsewhere.path(), "sub/b.yaml", &namespace("b"));
    symlink(elsewhere.path().join("a.yaml"), dir.path().join("a.yaml")).expect("linked");
    symlink(elsewhere.path().join("sub"), dir.path().join("sub")).expect("linked");
    symlink(dir.path(), dir.path().join("circle")).expect("linked");
    symlink(dir.path(), elsewhere.path().join("sub/circle")).expect("linked");
    let state = Folder::load_once(dir.path());
    assert_eq!(names(&state.store), ["a", "b"]);
    assert_eq!(state.store.diagnostics().count(), 0);
}

#[test]
fn what_cannot_be_read_is_a_problem() {
    let dir = dir();
    write(dir.path(), "good.yaml", &namespace("good"));
    symlink("nowhere", dir.path().join("dangling.yaml")).expect("linked");
    fs::write(dir.path().join("latin1.yaml"), b"a: \xe9\n").expect("written");
    // Sparse, so it takes no room.
    let large = fs::File::create(dir.path().join("large.yaml")).expect("made");
    large.set_len(50 << 20).expect("grown");
    let socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket.yaml")).expect("bound");
    let state = Folder::load_once(dir.path());
    drop(socket);
    assert_eq!(names(&state.store), ["good"]);
    let problems: Vec<String> = state
        .store
        .diagnostics()
        .map(|p| p.to_string().replace(&dir.path().display().to_string(), "DIR"))
        .collect();
    insta::assert_snapshot!(problems.join("\n"), @r"
    DIR/dangling.yaml: error: the file cannot be read: No such file or directory (os error 2)
        help: look at its owner, mode and link target
    DIR/large.yaml: error: the file is larger than 32 MiB
        help: split it into several files, or move it out of the folder
    DIR/latin1.yaml:1:4: error: the text is not UTF-8
        help: save the file as UTF-8
    DIR/socket.yaml: error: this is not a regular file
        help: look at its owner, mode and link target
    ");
}

#[tokio::test]
async fn files_come_change_and_go() {
    let dir = dir();
    write(dir.path(), "a.yaml", &namespace("a"));
    let mut watched = Watched::new(dir.path());
    assert_eq!(names(&watched.states.borrow().store), ["a"]);
    write(dir.path(), "b.yaml", &namespace("b"));
    watched.wait_for_names(&["a", "b"]).await;
    write(dir.path(), "a.yaml", &namespace("c"));
    watched.wait_for_names(&["b", "c"]).await;
    fs::remove_file(dir.path().join("b.yaml")).expect("removed");
    watched.wait_for_names(&["c"]).await;
    // A new folder, and one in it.
    write(dir.path(), "new/sub/d.yaml", &namespace("d"));
    watched.wait_for_names(&["c", "d"]).await;
    write(dir.path(), "new/sub/d.yaml", &namespace("e"));
    watched.wait_for_names(&["c", "e"]).await;
    fs::rename(dir.path().join("new"), dir.path().join(".new")).expect("renamed");
    watched.wait_for_names(&["c"]).await;
    fs::rename(dir.path().join(".new"), dir.path().join("newer")).expect("renamed");
    watched.wait_for_names(&["c", "e"]).await;
    watched.folder.stop();
}

#[tokio::test]
async fn editors_and_atomic_renames() {
    let dir = dir();
    write(dir.path(), "a.yaml", &namespace("a"));
    let mut watched = Watched::new(dir.path());
    let path = dir.path().join("a.yaml");
    // Written beside it and renamed over it.
    write(dir.path(), ".a.yaml.tmp", &namespace("b"));
    fs::rename(dir.path().join(".a.yaml.tmp"), &path).expect("renamed");
    watched.wait_for_names(&["b"]).await;
    // As vim does: moved aside, written anew, the old one removed.
    fs::rename(&path, dir.path().join("a.yaml~")).expect("renamed");
    fs::write(&path, namespace("c")).expect("written");
    fs::remove_file(dir.path().join("a.yaml~")).expect("removed");
    watched.wait_for_names(&["c"]).await;
    // Written in place, to the same length.
    fs::write(&path, namespace("d")).expect("written");
    watched.wait_for_names(&["d"]).await;
    // Replaced by a link.
    write(dir.path(), ".e", &namespace("e"));
    fs::remove_file(&path).expect("removed");
    symlink(".e", &path).expect("linked");
    watched.wait_for_names(&["e"]).await;
}

#[tokio::test]
async fn a_file_that_is_being_written_is_left_alone() {
    let dir = dir();
    write(dir.path(), "a.yaml", &namespace("a"));
    // However slow this test is, it is not slower than that.
    let mut watched = Watched::of(Folder::start(dir.path(), Duration::from_secs(600)));
    let mut file = fs::File::create(dir.path().join("a.yaml")).expect("opened");
    file.write_all(namespace("half").as_bytes()).expect("written");
    file.flush().expect("flushed");
    // Something else happens meanwhile and is seen, while the half file is not.
    write(dir.path(), "b.yaml", &namespace("b"));
    watched.wait("b", |state| names(&state.store).contains(&"b".to_owned())).await;
    assert_eq!(names(&watched.states.borrow().store), ["a", "b"]);
    file.write_all(format!("---\n{}", namespace("whole")).as_bytes()).expect("written");
    drop(file);
    watched.wait_for_names(&["b", "half", "whole"]).await;
}

#[tokio::test]
async fn a_file_whose_writer_never_closes_it_is_read_after_all() {
    let dir = dir();
    let mut watched = Watched::of(Folder::start(dir.path(), Duration::from_millis(100)));
    let mut file = fs::File::create(dir.path().join("a.yaml")).expect("opened");
    file.write_all(namespace("a").as_bytes()).expect("written");
    watched.wait_for_names(&["a"]).await;
    drop(file);
}

#[tokio::test]
async fn the_swapped_links_of_a_config_map_volume() {
    let dir = dir();
    let write_version =
        |version: &str| write(dir.path(), &format!("..{version}/policy.yaml"), &namespace(version));
    write_version("v1");
    symlink("..v1", dir.path().join("..data")).expect("linked");
    symlink("..data/policy.yaml", dir.path().join("policy.yaml")).expect("linked");
    let mut watched = Watched::new(dir.path());
    assert_eq!(names(&watched.states.borrow().store), ["v1"]);
    for (version, former) in [("v2", "v1"), ("v3", "v2")] {
        write_version(version);
        symlink(format!("..{version}"), dir.path().join("..data_tmp")).expect("linked");
        fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).expect("swapped");
        fs::remove_dir_all(dir.path().join(format!("..{former}"))).expect("removed");
        watched.wait_for_names(&[version]).await;
    }
    assert_eq!(watched.states.borrow().store.diagnostics().count(), 0);
}

#[tokio::test]
async fn the_folder_itself_may_be_a_link() {
    let dir = dir();
    write(dir.path(), "one/a.yaml", &namespace("one"));
    write(dir.path(), "two/a.yaml", &namespace("two"));
    let link = dir.path().join("link");
    symlink("one", &link).expect("linked");
    let mut watched = Watched::new(&link);
    symlink("two", dir.path().join("next")).expect("linked");
    fs::rename(dir.path().join("next"), &link).expect("swapped");
    watched.wait_for_names(&["two"]).await;
    write(dir.path(), "two/a.yaml", &namespace("three"));
    watched.wait_for_names(&["three"]).await;
}

#[tokio::test]
async fn a_folder_that_vanishes_and_comes_back() {
    let dir = dir();
    let folder = dir.path().join("policies");
    write(&folder, "a.yaml", &namespace("a"));
    let mut watched = Watched::new(&folder);
    fs::remove_dir_all(&folder).expect("removed");
    // Its files may be seen to go first; then they are gone by the time that the folder is.
    let state = watched.wait("unavailable", |state| !state.availability.is_available()).await;
    let Availability::Unavailable { reason } = state.availability else { panic!("{state:?}") };
    assert!(reason.contains("cannot be read: No such file"), "{reason}");
    write(&folder, "b.yaml", &namespace("b"));
    let state = watched.wait_for_names(&["b"]).await;
    assert!(state.availability.is_available());
    // Moved away as a whole: the last state stays.
    fs::rename(&folder, dir.path().join("away")).expect("renamed");
    let state = watched.wait("unavailable", |state| !state.availability.is_available()).await;
    assert_eq!(names(&state.store), ["b"]);
    fs::rename(dir.path().join("away"), &folder).expect("renamed");
    let state = watched.wait("available", |state| state.availability.is_available()).await;
    assert_eq!(names(&state.store), ["b"]);
    write(&folder, "b.yaml", &namespace("c"));
    watched.wait_for_names(&["c"]).await;
}

#[tokio::test]
async fn a_folder_that_is_not_there_yet() {
    let dir = dir();
    let folder = dir.path().join("later/policies");
    let mut watched = Watched::new(&folder);
    assert!(!watched.states.borrow().availability.is_available());
    write(&folder, "a.yaml", &namespace("a"));
    let state = watched.wait_for_names(&["a"]).await;
    assert!(state.availability.is_available());
}

#[tokio::test]
async fn a_file_that_breaks_keeps_its_last_objects() {
    let dir = dir();
    write(dir.path(), "a.yaml", &namespace("a"));
    let mut watched = Watched::new(dir.path());
    let has_problem =
        |state: &SourceState, text: &str| state.store.diagnostics().any(|p| p.message.contains(text));
    for (name, break_it, text) in [
        (
            "not YAML",
            (|p: &Path| fs::write(p, "a: [\n")) as fn(&Path) -> std::io::Result<()>,
            "this is not YAML",
        ),
        (
            "a field",
            |p| fs::write(p, "apiVersion: v1\nkind: Namespace\nmetadata: {name: 5}\n"),
            "expected a string",
        ),
        ("50 MB", |p| fs::File::create(p)?.set_len(50 << 20), "larger than 32 MiB"),
        ("a link to nowhere", |p| fs::remove_file(p).and_then(|()| symlink("nowhere", p)), "cannot be read"),
        ("a folder", |p| fs::remove_file(p).and_then(|()| fs::create_dir(p)), ""),
    ] {
        break_it(&dir.path().join("a.yaml")).expect(name);
        if text.is_empty() {
            // The file is gone, which is another thing than broken.
            watched.wait_for_names(&[]).await;
            continue;
        }
        let state = watched.wait(name, |state| has_problem(state, text)).await;
        assert_eq!(names(&state.store), ["a"], "{name}");
        assert!(has_problem(&state, "the file's last valid content stays in force"), "{name}");
    }
    fs::remove_dir(dir.path().join("a.yaml")).expect("removed");
    write(dir.path(), "a.yaml", &namespace("b"));
    let state = watched.wait_for_names(&["b"]).await;
    assert_eq!(state.store.diagnostics().count(), 0);
}

#[tokio::test]
async fn what_may_not_be_read_stays() {
    let dir = dir();
    write(dir.path(), "a.yaml", &namespace("a"));
    write(dir.path(), "sub/b.yaml", &namespace("b"));
    let mut watched = Watched::new(dir.path());
    let mode = |path: &str, mode: u32| {
        fs::set_permissions(dir.path().join(path), fs::Permissions::from_mode(mode)).expect("changed");
    };
    mode("a.yaml", 0);
    mode("sub", 0);
    if fs::File::open(dir.path().join("a.yaml")).is_ok() {
        // To root, modes mean nothing: there is nothing to see here but that nothing is lost.
        write(dir.path(), "c.yaml", &namespace("c"));
        watched.wait_for_names(&["a", "b", "c"]).await;
    } else {
        let state = watched.wait("two problems", |state| state.store.diagnostics().count() == 2).await;
        assert_eq!(names(&state.store), ["a", "b"]);
    }
    mode("sub", 0o700);
    mode("a.yaml", 0o600);
    watched.wait("no problems", |state| state.store.diagnostics().count() == 0).await;
}

#[tokio::test]
async fn ten_thousand_files() {
    let dir = dir();
    for i in 0..10_000 {
        write(dir.path(), &format!("{:02}/{i}.yaml", i % 100), &namespace(&format!("n{i}")));
    }
    let mut watched = Watched::new(dir.path());
    assert_eq!(watched.states.borrow().store.index().objects.len(), 10_000);
    write(dir.path(), "07/7.yaml", &namespace("changed"));
    watched.wait("the change", |state| names(&state.store).contains(&"changed".to_owned())).await;
    fs::remove_dir_all(dir.path().join("08")).expect("removed");
    watched.wait("fewer", |state| state.store.index().objects.len() == 9_900).await;
}

#[tokio::test]
async fn stopping_ends_the_states() {
    let dir = dir();
    let watched = Watched::new(dir.path());
    let mut states = watched.states;
    watched.folder.stop();
    assert!(states.changed().await.is_err());
}
