//! The parameters that a runtime passes in the environment (CNI specification, section 2).

use std::{ffi::OsString, path::PathBuf};

use crate::{
    Failure,
    failure::code,
    name,
    protocol::{Attachment, Pod},
};

/// A call, with the parameters that it needs and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Connect a pod.
    Add(Attachment, PathBuf, Pod),
    /// Disconnect a pod.
    Del(Attachment),
    /// Verify that a pod is connected.
    Check(Attachment, PathBuf),
    /// Disconnect all that the configuration does not list.
    Gc,
    /// Can ADD be served?
    Status,
    /// Which versions are supported?
    Version,
    /// No command at all: somebody runs the binary by hand.
    Nothing,
}

/// Reads a call; each missing variable is named in one go.
pub fn read(get: impl Fn(&str) -> Option<OsString>) -> Result<Call, Failure> {
    let reader = Reader { get };
    let Some(command) = reader.text("CNI_COMMAND")? else { return Ok(Call::Nothing) };
    match command.as_str() {
        "ADD" => {
            reader.require(&command, &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"])?;
            Ok(Call::Add(reader.attachment()?, reader.netns()?, reader.pod()?))
        }
        "DEL" => {
            reader.require(&command, &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"])?;
            Ok(Call::Del(reader.attachment()?))
        }
        "CHECK" => {
            reader.require(&command, &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"])?;
            Ok(Call::Check(reader.attachment()?, reader.netns()?))
        }
        "GC" => reader.require(&command, &["CNI_PATH"]).map(|()| Call::Gc),
        "STATUS" => Ok(Call::Status),
        "VERSION" => Ok(Call::Version),
        _ => Err(invalid(format!(
            "CNI_COMMAND {command:?} is unknown: use ADD, DEL, CHECK, GC, STATUS or VERSION"
        ))),
    }
}

struct Reader<G> {
    get: G,
}

impl<G: Fn(&str) -> Option<OsString>> Reader<G> {
    fn text(&self, key: &str) -> Result<Option<String>, Failure> {
        match (self.get)(key).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(value)) => Ok(Some(value).filter(|v| !v.is_empty())),
            Some(Err(_)) => Err(invalid(format!("{key} is not UTF-8: the runtime must pass text"))),
        }
    }

    fn require(&self, command: &str, keys: &[&str]) -> Result<(), Failure> {
        let mut missing = Vec::new();
        for key in keys {
            if self.text(key)?.is_none() {
                missing.push(*key);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        Err(invalid(format!("{} missing: {command} needs {}", missing.join(", "), keys.join(", "))))
    }

    fn attachment(&self) -> Result<Attachment, Failure> {
        let container_id = self.text("CNI_CONTAINERID")?.unwrap_or_default();
        let ifname = self.text("CNI_IFNAME")?.unwrap_or_default();
        name::container_id(&container_id).map_err(|e| invalid(format!("CNI_CONTAINERID: {e}")))?;
        name::interface(&ifname).map_err(|e| invalid(format!("CNI_IFNAME: {e}")))?;
        Ok(Attachment { container_id, ifname })
    }

    fn netns(&self) -> Result<PathBuf, Failure> {
        let text = self.text("CNI_NETNS")?.unwrap_or_default();
        if !text.starts_with('/') || text.contains('\0') || text.split('/').any(|part| part == "..") {
            return Err(invalid(format!(
                "CNI_NETNS {text:?} is not valid: give the absolute path of a network namespace, without '..'"
            )));
        }
        Ok(text.into())
    }

    fn pod(&self) -> Result<Pod, Failure> {
        let args = self.text("CNI_ARGS")?.unwrap_or_default();
        let mut pod = Pod::default();
        let mut infra = String::new();
        for pair in args.split(';').filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                invalid(format!("CNI_ARGS: {pair:?} is no pair: write KEY=VALUE, separated by ';'"))
            })?;
            let field = match key {
                "K8S_POD_NAMESPACE" => &mut pod.namespace,
                "K8S_POD_NAME" => &mut pod.name,
                "K8S_POD_UID" => &mut pod.uid,
                "K8S_POD_INFRA_CONTAINER_ID" => &mut infra,
                // The specification lets a plugin ignore what it does not know.
                _ => continue,
            };
            value.clone_into(field);
        }
        for (key, value) in [("K8S_POD_NAMESPACE", &pod.namespace), ("K8S_POD_NAME", &pod.name)] {
            if value.is_empty() {
                return Err(invalid(format!(
                    "{key} missing in CNI_ARGS: tombolo connects Kubernetes pods only"
                )));
            }
            name::subdomain(value).map_err(|e| invalid(format!("CNI_ARGS, {key}: {e}")))?;
        }
        if !pod.uid.is_empty() && (pod.uid.len() > 64 || name::container_id(&pod.uid).is_err()) {
            return Err(invalid(format!("CNI_ARGS, K8S_POD_UID: {:?} is not the UID of a pod", pod.uid)));
        }
        if !infra.is_empty() {
            name::container_id(&infra)
                .map_err(|e| invalid(format!("CNI_ARGS, K8S_POD_INFRA_CONTAINER_ID: {e}")))?;
        }
        Ok(pod)
    }
}

fn invalid(msg: String) -> Failure {
    Failure::new(code::INVALID_ENVIRONMENT, msg)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn call(pairs: &[(&str, &str)]) -> Result<Call, Failure> {
        let map: BTreeMap<String, String> =
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        read(|key| map.get(key).map(OsString::from))
    }

    const ADD: [(&str, &str); 6] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/var/run/netns/x"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/opt/cni/bin"),
        ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=1-2"),
    ];

    fn add_with(key: &'static str, value: &'static str) -> Result<Call, Failure> {
        let mut pairs = ADD.to_vec();
        pairs.retain(|(k, _)| *k != key);
        pairs.push((key, value));
        call(&pairs)
    }

    #[test]
    fn add_is_read() {
        let Call::Add(attachment, netns, pod) = call(&ADD).unwrap() else { panic!("no ADD") };
        assert_eq!((attachment.container_id.as_str(), attachment.ifname.as_str()), ("c1", "eth0"));
        assert_eq!(netns, PathBuf::from("/var/run/netns/x"));
        assert_eq!(
            (pod.namespace.as_str(), pod.name.as_str(), pod.uid.as_str()),
            ("default", "web-0", "1-2")
        );
    }

    #[test]
    fn all_missing_variables_are_named() {
        let failure = call(&[("CNI_COMMAND", "ADD"), ("CNI_IFNAME", "eth0")]).unwrap_err();
        assert_eq!(failure.code, code::INVALID_ENVIRONMENT);
        assert!(failure.msg.starts_with("CNI_CONTAINERID, CNI_NETNS, CNI_PATH missing"), "{failure}");
    }

    #[test]
    fn bad_values_are_refused_by_name() {
        for (key, value) in [
            ("CNI_IFNAME", "a/b"),
            ("CNI_IFNAME", "abcdefghijklmnop"),
            ("CNI_CONTAINERID", "../../etc"),
            ("CNI_NETNS", "netns/x"),
            ("CNI_NETNS", "/var/run/../x"),
            ("CNI_ARGS", "K8S_POD_NAMESPACE"),
            ("CNI_ARGS", "K8S_POD_NAME=a"),
            ("CNI_ARGS", "K8S_POD_NAMESPACE=a;K8S_POD_NAME=A/b"),
            ("CNI_COMMAND", "BOGUS"),
        ] {
            let failure = add_with(key, value).unwrap_err();
            assert_eq!(failure.code, code::INVALID_ENVIRONMENT, "{key}={value}");
            assert!(failure.msg.contains(key), "{failure}");
        }
    }

    #[test]
    fn del_needs_no_namespace() {
        let pairs = ADD.map(|(k, v)| if k == "CNI_COMMAND" { (k, "DEL") } else { (k, v) });
        let without: Vec<_> =
            pairs.into_iter().filter(|(k, _)| *k != "CNI_NETNS" && *k != "CNI_ARGS").collect();
        assert!(matches!(call(&without), Ok(Call::Del(_))));
        assert_eq!(call(&[]).unwrap(), Call::Nothing);
    }

    proptest! {
        #[test]
        fn any_environment_is_survived(command in "ADD|DEL|CHECK|GC|.*", id in ".*", ifname in ".*",
                                       netns in ".*", args in ".*") {
            let _ = call(&[("CNI_COMMAND", &command), ("CNI_CONTAINERID", &id), ("CNI_IFNAME", &ifname),
                           ("CNI_NETNS", &netns), ("CNI_ARGS", &args), ("CNI_PATH", "/opt")]);
        }
    }
}
