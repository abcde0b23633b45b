//! The peer protocol as far as it was released: what stands there is never changed and never used for something else, so that
//! programs of two releases understand each other. New fields and calls may be added.

use std::collections::BTreeSet;
use std::path::Path;

/// Every field and every call, one a line.
fn listed() -> BTreeSet<String> {
    let files = protox::compile(["raft.proto"], [concat!(env!("CARGO_MANIFEST_DIR"), "/proto")])
        .expect("it compiles");
    let mut lines = BTreeSet::new();
    for file in files.file {
        for message in &file.message_type {
            list_message(message, message.name(), &mut lines);
        }
        for service in &file.service {
            for call in &service.method {
                let stream = |is: bool| if is { "stream " } else { "" };
                lines.insert(format!(
                    "rpc {}.{}({}{}) returns ({}{})",
                    service.name(),
                    call.name(),
                    stream(call.client_streaming()),
                    call.input_type(),
                    stream(call.server_streaming()),
                    call.output_type()
                ));
            }
        }
    }
    lines
}

fn list_message(message: &prost_types::DescriptorProto, name: &str, lines: &mut BTreeSet<String>) {
    for field in &message.field {
        let group = field.oneof_index.and_then(|at| message.oneof_decl.get(usize::try_from(at).ok()?));
        let line = format!(
            "{name}.{} = {} {:?} {:?} {}{}",
            field.name(),
            field.number(),
            field.label(),
            field.r#type(),
            field.type_name(),
            group.map_or(String::new(), |group| format!(" of {}", group.name())),
        );
        lines.insert(line.trim_end().to_owned());
    }
    for kind in &message.enum_type {
        for value in &kind.value {
            lines.insert(format!("{name}.{}.{} = {}", kind.name(), value.name(), value.number()));
        }
    }
    for nested in &message.nested_type {
        list_message(nested, &format!("{name}.{}", nested.name()), lines);
    }
}

/// `UPDATE_FIXTURES=1` writes the list of the newest release anew, which is only for one that was not released yet.
#[test]
fn what_was_released_of_the_protocol_stays() {
    const NEWEST: &str = "0.1";
    let dir = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures"));
    let now = listed();
    let text: String = now.iter().map(|line| format!("{line}\n")).collect();
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        std::fs::create_dir_all(dir).expect("a directory");
        std::fs::write(dir.join(format!("wire-{NEWEST}.txt")), &text).expect("a list");
    }
    let mut releases = 0;
    for entry in std::fs::read_dir(dir).expect("the lists of all releases") {
        let path = entry.expect("readable").path();
        let released = std::fs::read_to_string(&path).expect("a list");
        let gone: Vec<&str> = released.lines().filter(|line| !now.contains(*line)).collect();
        assert_eq!(gone, Vec::<&str>::new(), "changed since {}", path.display());
        let is_newest =
            path.file_name().is_some_and(|name| name.to_string_lossy() == format!("wire-{NEWEST}.txt"));
        assert!(
            !is_newest || released == text,
            "there is more now than in {}: list it for the next release",
            path.display()
        );
        releases += 1;
    }
    assert!(releases > 0);
}
