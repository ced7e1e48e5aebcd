//! What the bundles of `bundles/make` promise, tried with nothing but chroot(1): that each root holds all that its program
//! needs, and that the root is not written to. Each trial has mount, network and PID namespaces of its own.

#![forbid(unsafe_code)]

use serde_json::Value;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Once;

fn make() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("bundles").join("make")
}

fn bundle(name: &str) -> PathBuf {
    static MADE: Once = Once::new();
    MADE.call_once(|| {
        let made = Command::new(make()).arg("all").output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    });
    make().with_file_name("build").join(name)
}

fn config(name: &str) -> Value {
    let path = bundle(name).join("config.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Shell words that run in the bundle's root what its config.json says, as the user that it says.
fn process(name: &str) -> String {
    let process = &config(name)["process"];
    let quoted = |word: &Value| format!("'{}'", word.as_str().unwrap().replace('\'', r"'\''"));
    let words: Vec<String> = process["args"].as_array().unwrap().iter().map(quoted).collect();
    let root = bundle(name).join("rootfs");
    let (user, path) = (&process["user"], "/usr/sbin:/usr/bin:/sbin:/bin");
    let who = format!("--userspec={}:{}", user["uid"], user["gid"]);
    format!("/usr/bin/env -i PATH={path} /usr/sbin/chroot {who} {} {}", root.display(), words.join(" "))
}

/// Mounts what config.json says, the read-only root first; /dev is the host's.
fn mounts(name: &str) -> String {
    let root = bundle(name).join("rootfs");
    let root = root.display();
    let mut script =
        format!("mount --bind {root} {root}; mount -o remount,bind,ro {root}; mount --rbind /dev {root}/dev\n");
    for mount in config(name)["mounts"].as_array().unwrap() {
        let (at, kind) = (mount["destination"].as_str().unwrap(), mount["type"].as_str().unwrap());
        let options = mount["options"].as_array().map_or(String::new(), |options| {
            options.iter().map(|option| option.as_str().unwrap()).collect::<Vec<_>>().join(",")
        });
        if kind == "proc" || (kind == "tmpfs" && at != "/dev") {
            script += &format!("mount -t {kind} -o '{options}' {kind} {root}{at}\n");
        }
    }
    script
}

/// Runs a script where the roots of these bundles are mounted and loopback is up; its output, once it succeeded.
fn trial(names: &[&str], script: &str) -> String {
    let all: String = names.iter().map(|name| mounts(name)).collect();
    let script = format!("set -eu\nip link set lo up\n{all}\n{script}");
    let alone = ["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--", "/bin/dash", "-c"];
    let done = Command::new("unshare").args(alone).arg(&script).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{}\n{out}\n{err}\n{script}", done.status);
    out.into_owned()
}

/// Tries a command up to 30 s long: from a cold disk a server takes its time.
const AGAIN: &str = "again() { n=0; until \"$@\"; do n=$((n+1)); [ $n -lt 300 ] || return 1; sleep 0.1; done; }";

const GET: &str = "busybox wget -q -O /proc/self/fd/1 http://127.0.0.1/";

#[test]
fn the_busybox_bundle_has_a_shell_with_all_its_programs() {
    let out = trial(&["busybox"], &format!("echo 'seq 3 | tac; id -un; ls -d /tmp; whoami' | {}", process("busybox")));
    assert_eq!(out, "3\n2\n1\nroot\n/tmp\nroot\n");
}

#[test]
fn the_python3_bundle_has_the_whole_standard_library() {
    let program = "import ctypes, http.server, json, lzma, sqlite3, ssl, uuid; print(json.dumps([1, ssl.HAS_TLSv1_3]))";
    let out = trial(&["python3"], &format!("echo '{program}' | {}", process("python3")));
    assert_eq!(out, "[1, true]\n");
}

#[test]
fn the_redis_bundle_keeps_what_it_is_told_and_leaves_on_term() {
    let root = bundle("redis").join("rootfs");
    let ask = format!("chroot {} redis-cli", root.display());
    let server = process("redis");
    let script = format!("{AGAIN}\n{server} & again {ask} ping\n{ask} set pod one\n{ask} get pod\nkill $!; wait $!");
    let out = trial(&["redis"], &script);
    assert!(out.contains("PONG\nOK\none\n") && out.contains("bye bye"), "{out}");
}

#[test]
fn the_nginx_bundle_serves_its_page_and_logs_to_stdout() {
    let out = trial(&["nginx"], &format!("{AGAIN}\n{} & again {GET}; sleep 0.2; kill $!; wait $!", process("nginx")));
    assert!(out.contains("<title>nginx in a pod</title>"), "{out}");
    assert!(out.contains("\"GET / HTTP/1.1\" 200"), "{out}");
}

#[test]
fn the_client_hears_nginx_on_localhost_and_the_shipper_ships_its_log() {
    let root = |name: &str| bundle(name).join("rootfs/var/log/nginx").display().to_string();
    let share = format!("mount --bind {} {}", root("nginx"), root("shipper"));
    let start = ["client", "shipper", "nginx"].map(|name| format!("{} & {name}=$!", process(name))).join("\n");
    let script = format!(
        "{AGAIN}\n{share}\n{start}\nagain {GET}; sleep 3\nfor one in $client $nginx $shipper; do kill $one; wait $one; sleep 1.2; done"
    );
    let out = trial(&["nginx", "client", "shipper"], &script);
    assert!(out.contains("localhost says: <title>nginx in a pod</title>"), "{out}");
    let requests = out.matches("\"GET / HTTP/1.1\" 200").count();
    assert!(requests >= 2 && requests.is_multiple_of(2), "one line of nginx, one of the shipper, each: {out}");
}

#[test]
fn a_second_make_does_nothing_and_an_unknown_bundle_is_refused() {
    bundle("busybox");
    let again = Command::new(make()).arg("all").output().unwrap();
    assert!(again.status.success() && again.stdout.is_empty(), "{again:?}");
    let unknown = Command::new(make()).arg("nothing").output().unwrap();
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).starts_with("bundles: there is no bundle nothing"), "{unknown:?}");
}
