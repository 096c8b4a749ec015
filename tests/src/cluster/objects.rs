//! What is in the cluster beside the guard: LLM servers, clients in pods, and the services that lead to a server.

use std::path::Path;

use serde_json::{Value, json};

use crate::policy::GUARDED;

/// The image that has the server and the client.
const IMAGE: &str = "localhost/llm:test";
/// Where the model is in the container.
const MODEL: &str = "/models/model.gguf";

/// A port of the node that is led to the server's, and is guarded itself.
pub(super) const NODE_PORT: u16 = 31_434;
/// One that keeps the client's address, and is not guarded itself.
pub(super) const LOCAL_NODE_PORT: u16 = 31_435;
/// A port of the node that its CNI leads to the server's, and that is not guarded itself.
pub(super) const HOST_PORT: u16 = 18_434;

/// A server in a network of its own.
pub(super) fn server(model: &Path) -> Value {
    let mut pod = serving("llm", model);
    pod["spec"]["containers"][0]["ports"] = json!([
        { "containerPort": GUARDED, "hostPort": HOST_PORT },
    ]);
    pod
}

/// A server in the node's network.
pub(super) fn host_server(model: &Path) -> Value {
    let mut pod = serving("llm-host", model);
    pod["spec"]["hostNetwork"] = true.into();
    pod
}

/// A pod that somebody asks from.
pub(super) fn client(name: &str, model: &Path) -> Value {
    pod(name, json!(["/usr/bin/busybox", "sleep", "1000000"]), model)
}

/// The services that lead to the server.
pub(super) fn services() -> [Value; 2] {
    [("llm", NODE_PORT, "Cluster"), ("llm-local", LOCAL_NODE_PORT, "Local")].map(
        |(name, port, policy)| {
            json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": { "name": name, "namespace": "default" },
                "spec": {
                    "type": "NodePort", "selector": { "app": "llm" },
                    "externalTrafficPolicy": policy,
                    "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"],
                    "ports": [{ "port": GUARDED, "targetPort": GUARDED, "nodePort": port }],
                },
            })
        },
    )
}

fn serving(name: &str, model: &Path) -> Value {
    let port = GUARDED.to_string();
    let command = json!([
        "/usr/bin/llama-server",
        "--host",
        "::",
        "--port",
        port,
        "--model",
        MODEL,
        "--ctx-size",
        "1024",
        "--threads",
        "1",
        "--alias",
        "gemma3:270m",
        "--no-webui",
    ]);
    let mut pod = pod(name, command, model);
    // The kubelet's, which comes from the node. Patient: a server that is taken out of its services because the
    // machine is busy would look as if it were shut out.
    pod["spec"]["containers"][0]["readinessProbe"] = json!({
        "httpGet": { "path": "/health", "port": GUARDED },
        "periodSeconds": 2, "timeoutSeconds": 20, "failureThreshold": 10,
    });
    pod
}

fn pod(name: &str, command: Value, model: &Path) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "default", "labels": { "app": name } },
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "main", "image": IMAGE, "imagePullPolicy": "Never", "command": command,
                "volumeMounts": [{ "name": "model", "mountPath": MODEL, "readOnly": true }],
            }],
            "volumes": [{ "name": "model", "hostPath": { "path": model, "type": "File" } }],
        },
    })
}
