//! Documents from JSON, without serde's weight: see [`crate::json`].

use std::sync::Arc;

use super::{
    ApiVersion, Document, EncryptedHello, HeaderMatch, InMesh, Mode, Port, Protocol, Route, Rule, Upgrade,
};
use crate::Identity;
use crate::json::{Error, Field, Read, Reader, unknown_field};

impl Read<'_> for Document {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let mut api_version = Field::new("apiVersion");
        let mut identity = Field::new("identity");
        let mut version = Field::new("version");
        let mut mode = Field::new("mode");
        let mut rules = Field::new("rules");
        let mut in_mesh = Field::new("inMesh");
        reader.object(&mut |reader, name| match name {
            "apiVersion" => api_version.set(word(reader, &[(super::API_VERSION, ApiVersion::V1)])),
            "identity" => identity.set(self::identity(reader)),
            "version" => version.set(reader.owned()),
            "mode" => mode.set(word(reader, &Mode::ALL.map(|mode| (mode.as_str(), mode)))),
            "rules" => rules.set(reader.list(|reader| rule(reader).map(Arc::new))),
            "inMesh" => in_mesh.set(reader.list(self::in_mesh)),
            _ => unknown_field(name),
        })?;
        Ok(Self {
            api_version: api_version.required()?,
            identity: identity.required()?,
            version: version.required()?,
            mode: mode.required()?,
            rules: rules.required()?,
            in_mesh: in_mesh.or(Vec::new()).into(),
        })
    }
}

fn identity(reader: &mut Reader<'_>) -> Result<Identity, Error> {
    let mut namespace = Field::new("namespace");
    let mut service_account = Field::new("serviceAccount");
    reader.object(&mut |reader, name| match name {
        "namespace" => namespace.set(reader.owned()),
        "serviceAccount" => service_account.set(reader.owned()),
        _ => unknown_field(name),
    })?;
    Identity::new(&namespace.required()?, &service_account.required()?).map_err(|error| Error::other(&error))
}

fn rule(reader: &mut Reader<'_>) -> Result<Rule, Error> {
    let mut policy = Field::new("policy");
    let mut rule = Field::new("name");
    let mut port = Field::new("port");
    let mut protocol = Field::new("protocol");
    let mut addresses = Field::new("addresses");
    let mut hosts = Field::new("hosts");
    let mut routes = Field::new("routes");
    let mut upgrades = Field::new("upgrades");
    let mut encrypted_hello = Field::new("encryptedHello");
    let mut cluster = Field::new("cluster");
    reader.object(&mut |reader, name| match name {
        "policy" => policy.set(reader.owned()),
        "name" => rule.set(reader.owned()),
        "port" => port.set(self::port(reader)),
        "protocol" => {
            protocol.set(word(reader, &Protocol::ALL.map(|protocol| (protocol.as_str(), protocol))))
        }
        "addresses" => {
            addresses.set(reader.option(|reader| reader.list(Reader::parsed)).map(|list| list.map(Arc::from)))
        }
        "hosts" => {
            hosts.set(reader.option(|reader| reader.list(Reader::parsed)).map(|list| list.map(Arc::from)))
        }
        "routes" => routes.set(
            reader
                .option(|reader| reader.list(|reader| route(reader).map(Arc::new)))
                .map(|list| list.map(Arc::from)),
        ),
        "upgrades" => upgrades.set(reader.list(|reader| word(reader, &[("websocket", Upgrade::Websocket)]))),
        "encryptedHello" => {
            let known = [("refuse", EncryptedHello::Refuse), ("allow-outer", EncryptedHello::AllowOuter)];
            encrypted_hello.set(word(reader, &known))
        }
        "cluster" => cluster.set(reader.option(Reader::owned)),
        _ => unknown_field(name),
    })?;
    Ok(Rule {
        policy: policy.required()?,
        name: rule.required()?,
        port: port.required()?,
        protocol: protocol.required()?,
        addresses: addresses.or(None),
        hosts: hosts.or(None),
        routes: routes.or(None),
        upgrades: upgrades.or(Vec::new()),
        encrypted_hello: encrypted_hello.or(EncryptedHello::Refuse),
        cluster: cluster.or(None),
    })
}

fn route(reader: &mut Reader<'_>) -> Result<Route, Error> {
    let mut route = Field::new("name");
    let mut path = Field::new("path");
    let mut methods = Field::new("methods");
    let mut headers = Field::new("headers");
    reader.object(&mut |reader, name| match name {
        "name" => route.set(reader.owned()),
        "path" => path.set(reader.option(Reader::owned)),
        "methods" => methods.set(reader.option(|reader| reader.list(Reader::owned))),
        "headers" => headers.set(reader.list(header)),
        _ => unknown_field(name),
    })?;
    Ok(Route {
        name: route.required()?,
        path: path.or(None),
        methods: methods.or(None),
        headers: headers.or(Vec::new()),
    })
}

fn header(reader: &mut Reader<'_>) -> Result<HeaderMatch, Error> {
    let mut header = Field::new("name");
    let mut value = Field::new("value");
    reader.object(&mut |reader, name| match name {
        "name" => header.set(reader.owned()),
        "value" => value.set(reader.owned()),
        _ => unknown_field(name),
    })?;
    Ok(HeaderMatch { name: header.required()?, value: value.required()? })
}

fn in_mesh(reader: &mut Reader<'_>) -> Result<InMesh, Error> {
    let mut service = Field::new("service");
    let mut addresses = Field::new("addresses");
    let mut ports = Field::new("ports");
    let mut allowed = Field::new("allowed");
    reader.object(&mut |reader, name| match name {
        "service" => service.set(reader.owned()),
        "addresses" => addresses.set(reader.list(Reader::parsed)),
        "ports" => ports.set(reader.list(port)),
        "allowed" => allowed.set(reader.boolean()),
        _ => unknown_field(name),
    })?;
    Ok(InMesh {
        service: service.required()?,
        addresses: addresses.required()?,
        ports: ports.required()?,
        allowed: allowed.required()?,
    })
}

fn port(reader: &mut Reader<'_>) -> Result<Port, Error> {
    Port::new(reader.unsigned()?).ok_or(Error::unknown("0"))
}

/// One of a few words.
fn word<T: Copy>(reader: &mut Reader<'_>, known: &[(&str, T)]) -> Result<T, Error> {
    let word = reader.string()?;
    match known.iter().find(|(name, _)| *name == word) {
        Some((_, value)) => Ok(*value),
        None => Err(Error::unknown(&word)),
    }
}
