//! Making of the descriptors: those of the messages that we use, of all that `envoy-types` has.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;

use cargo_metadata::MetadataCommand;
use prost::Message;
use prost_reflect::{DynamicMessage, ReflectMessage, Value};
use prost_types::field_descriptor_proto::Type;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto,
    FileDescriptorProto, FileDescriptorSet, MessageOptions, OneofDescriptorProto,
};

use super::{ANY, Encoder};

/// The descriptors of all of Envoy's messages, from the package that has its types.
pub(super) fn all() -> Vec<u8> {
    let metadata = MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .other_options(["--offline".to_owned(), "--locked".to_owned()])
        .exec()
        .expect("cargo knows its packages");
    let package = metadata.packages.iter().find(|package| package.name.as_str() == "envoy-types");
    let manifest = &package.expect("envoy-types is a dependency").manifest_path;
    let file = manifest.parent().expect("a folder").join("src/generated/types.bin");
    fs::read(&file).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The names of messages and enums that are in a message.
pub(super) fn collect_names(encoder: &Encoder, message: &DynamicMessage, names: &mut BTreeSet<String>) {
    let descriptor = message.descriptor();
    names.insert(format!(".{}", descriptor.full_name()));
    for (field, value) in message.fields() {
        let kind = field.kind();
        let name = kind.as_enum().map(|kind| kind.full_name().to_owned());
        let name = name.or_else(|| kind.as_message().map(|kind| kind.full_name().to_owned()));
        names.extend(name.map(|name| format!(".{name}")));
        let alone = value.as_message().into_iter();
        let items = value.as_list().into_iter().flatten().filter_map(Value::as_message);
        let entries = value.as_map().into_iter().flat_map(HashMap::values).filter_map(Value::as_message);
        alone.chain(items).chain(entries).for_each(|inner| collect_names(encoder, inner, names));
    }
    if descriptor.full_name() == ANY {
        let url = message.get_field_by_name("type_url").expect("a field").into_owned();
        let bytes = message.get_field_by_name("value").expect("a field").into_owned();
        let name = url.as_str().and_then(|url| url.rsplit('/').next()).expect("a type");
        let inner = encoder.pool.get_message_by_name(name).expect("a message");
        let inner = DynamicMessage::decode(inner, bytes.as_bytes().expect("bytes").clone()).expect("decoded");
        collect_names(encoder, &inner, names);
    }
}

/// The descriptors of these messages and enums. Fields of other types are left out.
pub(super) fn prune(all: &[u8], names: &BTreeSet<String>) -> Vec<u8> {
    let set = FileDescriptorSet::decode(all).expect("descriptors");
    let mut files = BTreeMap::new();
    for file in &set.file {
        let package = format!(".{}", file.package());
        file.message_type.iter().for_each(|message| list(&package, message, file.name(), &mut files));
        for kind in &file.enum_type {
            files.insert(format!("{package}.{}", kind.name()), file.name().to_owned());
        }
    }
    let mut pruned = Vec::new();
    for file in set.file {
        let package = format!(".{}", file.package());
        let message_type = messages(&package, &file.message_type, names);
        let enum_type = enums(&package, &file.enum_type, names);
        if message_type.is_empty() && enum_type.is_empty() {
            continue;
        }
        let mut types = BTreeSet::new();
        message_type.iter().for_each(|message| list_types(message, &mut types));
        let dependency: BTreeSet<String> = types.iter().map(|name| files[name].clone()).collect();
        pruned.push(FileDescriptorProto {
            dependency: dependency.into_iter().filter(|other| other != file.name()).collect(),
            name: file.name,
            package: file.package,
            syntax: file.syntax,
            message_type,
            enum_type,
            ..Default::default()
        });
    }
    FileDescriptorSet { file: pruned }.encode_to_vec()
}

fn list(scope: &str, message: &DescriptorProto, file: &str, files: &mut BTreeMap<String, String>) {
    let name = format!("{scope}.{}", message.name());
    message.nested_type.iter().for_each(|nested| list(&name, nested, file, files));
    for kind in &message.enum_type {
        files.insert(format!("{name}.{}", kind.name()), file.to_owned());
    }
    files.insert(name, file.to_owned());
}

fn list_types(message: &DescriptorProto, types: &mut BTreeSet<String>) {
    types.extend(message.field.iter().filter_map(|field| field.type_name.clone()));
    message.nested_type.iter().for_each(|nested| list_types(nested, types));
}

fn messages(scope: &str, of: &[DescriptorProto], names: &BTreeSet<String>) -> Vec<DescriptorProto> {
    let prune = |message: &DescriptorProto| {
        let name = format!("{scope}.{}", message.name());
        let nested_type = messages(&name, &message.nested_type, names);
        let enum_type = enums(&name, &message.enum_type, names);
        let is_used = names.contains(&name);
        let (field, oneof_decl) = if is_used { fields(message, names) } else { Default::default() };
        let is_map = message.options.as_ref().is_some_and(MessageOptions::map_entry);
        let options = is_map.then(|| MessageOptions { map_entry: Some(true), ..Default::default() });
        let is_needed = is_used || !nested_type.is_empty() || !enum_type.is_empty();
        is_needed.then(|| DescriptorProto {
            name: message.name.clone(),
            field,
            oneof_decl,
            nested_type,
            enum_type,
            options,
            ..Default::default()
        })
    };
    of.iter().filter_map(prune).collect()
}

/// The fields, and the declarations of `oneof` that they belong to.
fn fields(
    message: &DescriptorProto,
    names: &BTreeSet<String>,
) -> (Vec<FieldDescriptorProto>, Vec<OneofDescriptorProto>) {
    let mut declarations: Vec<OneofDescriptorProto> = Vec::new();
    let mut fields = Vec::new();
    for field in &message.field {
        let is_known = field.type_name.as_ref().is_none_or(|name| names.contains(name));
        if !is_known || field.r#type() == Type::Group {
            continue;
        }
        let declaration = field.oneof_index.map(|index| {
            let name = message.oneof_decl[usize::try_from(index).expect("an index")].name.clone();
            let at = declarations.iter().position(|known| known.name == name).unwrap_or_else(|| {
                declarations.push(OneofDescriptorProto { name, options: None });
                declarations.len() - 1
            });
            i32::try_from(at).expect("an index")
        });
        fields.push(FieldDescriptorProto {
            oneof_index: declaration,
            options: None,
            json_name: None,
            ..field.clone()
        });
    }
    (fields, declarations)
}

fn enums(scope: &str, of: &[EnumDescriptorProto], names: &BTreeSet<String>) -> Vec<EnumDescriptorProto> {
    let value =
        |value: &EnumValueDescriptorProto| EnumValueDescriptorProto { options: None, ..value.clone() };
    let used = of.iter().filter(|kind| names.contains(&format!("{scope}.{}", kind.name())));
    used.map(|kind| EnumDescriptorProto {
        name: kind.name.clone(),
        value: kind.value.iter().map(value).collect(),
        ..Default::default()
    })
    .collect()
}
