//! Networks of CNI plugins: what plugins are asked, in which words, and what becomes of those that misbehave.

use podrun_tests::cni::{Cni, DEBIAN};
use podrun_tests::{Value, eventually, json};
use std::fs;
use std::time::Duration;

// CNI specification 1.1, sections 2 and 3; its conventions for runtimeConfig.
#[test]
fn plugins_are_asked_as_the_specification_says() {
    let cni = Cni::new();
    cni.giving("first", "10.7.0.9/24");
    cni.plugin("second", "if [ $CNI_COMMAND = ADD ]; then printf '%s' \"$in\" | sed 's/.*\"prevResult\":\\({.*}\\),\"runtimeConfig.*/\\1/'; fi");
    let chain = [
        json!({"type": "first", "mine": {"x": [1, "a"]}, "capabilities": {"ips": true, "mac": true, "dns": true}}),
        json!({"type": "second", "capabilities": {"portMappings": true, "bandwidth": true, "mac": false}}),
    ];
    cni.chain("net", &chain);
    cni.podrun(
        "create pod web -n team --network cni:net,ip=10.7.0.9/24,mac=02:00:00:00:00:01,egress=1M --dns 10.7.0.1 \
         --dns-search team.local --publish 127.0.0.1:8080:80/udp",
    )
    .ok();
    let pod = cni.podrun("-n team inspect web").json();
    let id = pod["id"].as_str().unwrap();
    let (environment, input) = cni.given("ADD-first");
    let link = cni.host.run_root().join("netns").join(format!("{id}.eth0"));
    let netns = pod["namespaces"]["net"].as_str().unwrap();
    let inode = cni.host.program(format!("readlink {netns}")).run().ok().text();
    let args = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=team;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID={id}"
    );
    let mut lines: Vec<&str> = environment.lines().collect();
    assert!(lines.pop().unwrap().ends_with(inode.trim()), "{environment} and {inode}");
    lines.sort_unstable();
    let wanted = [
        format!("CNI_ARGS={args}"),
        "CNI_COMMAND=ADD".to_owned(),
        format!("CNI_CONTAINERID={id}"),
        "CNI_IFNAME=eth0".to_owned(),
        format!("CNI_NETNS={}", link.display()),
        format!("CNI_PATH={}", cni.path),
    ];
    assert_eq!(lines[..6], wanted.each_ref().map(String::as_str)[..]);
    assert!(lines.len() == 7 && lines[6].starts_with("PATH="), "{lines:?}");
    let first = json!({"type": "first", "mine": {"x": [1, "a"]}, "name": "net", "cniVersion": "1.0.0", "runtimeConfig": {
        "ips": ["10.7.0.9/24"], "mac": "02:00:00:00:00:01",
        "dns": {"servers": ["10.7.0.1"], "searches": ["team.local"], "options": []}}});
    assert_eq!(input, first);
    let (_, second) = cni.given("ADD-second");
    assert_eq!(second["prevResult"]["ips"][0]["address"], "10.7.0.9/24");
    assert_eq!(
        second["runtimeConfig"],
        json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "udp", "hostIP": "127.0.0.1"}],
            "bandwidth": {"egressRate": 1_000_000, "egressBurst": 524_288}})
    );
    cni.forget_asked();
    cni.podrun("-n team delete pod web").ok().says_nothing();
    // In reverse, with what ADD was given and what it answered, and the namespace at the same path.
    assert_eq!(cni.asked(), ["DEL-second", "DEL-first"]);
    let (again, input) = cni.given("DEL-first");
    assert_eq!(again.replace("=DEL", "=ADD").lines().take(7).collect::<Vec<_>>().len(), 7);
    assert!(
        again.contains(&format!("CNI_NETNS={}", link.display())) && again.trim_end().ends_with(inode.trim()),
        "{again}"
    );
    assert_eq!(input["prevResult"], second["prevResult"]);
    assert_eq!(input["runtimeConfig"], first["runtimeConfig"]);
    assert!(!link.exists() && !cni.host.root().join("cni").join(id).exists());
}

#[test]
fn versions_from_0_3_0_to_1_1_0_are_spoken() {
    let cni = Cni::new();
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let family = if version < "1" { r#""version": "4", "# } else { "" };
        cni.plugin(
            "one",
            &format!(r#"[ $CNI_COMMAND = ADD ] && echo '{{"cniVersion": "{version}", "ips": [{{{family}"address": "10.7.0.9/24"}}]}}' || true"#),
        );
        cni.chain_of(version, "net", &[json!({"type": "one"}), json!({"type": "one"})]);
        cni.forget_asked();
        cni.podrun("create pod web --network cni:net").ok().prints("pod/web created, 10.7.0.9");
        cni.podrun("delete pod web").ok().says_nothing();
        let (_, last) = cni.given("ADD-one");
        let family = if version < "1" { json!("4") } else { Value::Null };
        assert_eq!((&last["cniVersion"], &last["prevResult"]["ips"][0]["version"]), (&json!(version), &family));
        // DEL has had a result since 0.4.0.
        assert_eq!(cni.given("DEL-one").1["prevResult"].is_null(), version < "0.4");
    }
    // A result of another version is handed on as the chain's.
    cni.plugin("one", r#"[ $CNI_COMMAND = ADD ] && echo '{"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.7.0.9/24"}]}' || true"#);
    cni.pod("web", "--network cni:net");
    assert_eq!(
        cni.given("ADD-one").1["prevResult"],
        json!({"cniVersion": "1.1.0", "ips": [{"address": "10.7.0.9/24"}]})
    );
}

#[test]
fn a_plugin_that_fails_is_told_whole_and_leaves_nothing() {
    let cni = Cni::new();
    cni.giving("good", "10.7.0.9/24");
    cni.chain("net", &[json!({"type": "good"}), json!({"type": "bad"})]);
    for (script, why) in [
        (
            r#"echo '{"cniVersion": "1.0.0", "code": 103, "msg": "no bridge", "details": "it is painted red"}'; exit 1"#,
            "ADD net by the CNI plugin bad: no bridge (code 103): it is painted red",
        ),
        ("echo broken pipe; echo and a word >&2; exit 4", "it ended with 4: and a word; broken pipe"),
        ("kill -SEGV $$", "it was killed by signal 11"),
        ("exit 0", "its result is not JSON"),
        ("echo hello", "its result is not JSON: expected value at line 1 column 1: hello"),
        (r#"echo '{"cniVersion": "7.0.0"}'"#, "its result is of cniVersion \"7.0.0\", and was asked for as 1.0.0"),
        (r#"echo '{"ips": [{"address": "10.7.0.9"}]}'"#, "no /prefix"),
        ("head -c 3000000 /dev/zero", "it wrote more than 1048576 bytes and was killed"),
        ("head -c 3000000 /dev/zero >&2", "it wrote more than 1048576 bytes and was killed"),
    ] {
        cni.plugin("bad", &format!("[ $CNI_COMMAND != ADD ] && exit 0\n{script}"));
        cni.forget_asked();
        let told = cni.podrun("create pod web --network cni:net");
        told.fails(1).with_one_line().says(why).says("create the pod web");
        assert_eq!(cni.asked(), ["ADD-good", "ADD-bad", "DEL-bad", "DEL-good"], "{script}");
        cni.podrun("inspect web").fails(1);
        assert!(cni.podrun("prune --dry-run").ok().text().is_empty(), "{script}");
    }
    // What was given is not what was asked for.
    cni.giving("bad", "10.7.0.9/24");
    for (wish, why) in [
        ("ip=10.7.0.8", "its plugins did not give ip=10.7.0.8, but 10.7.0.9/24"),
        ("mac=02:00:00:00:00:02", "did not give mac=02:00:00:00:00:02, but 02:00:00:00:00:01"),
    ] {
        cni.podrun(format!("create pod web --network cni:net,{wish}")).fails(1).with_one_line().says(why);
    }
    // A later network that fails takes the earlier one's plugins back.
    cni.forget_asked();
    cni.podrun("create pod web --network cni:net --network nosuch").fails(1).with_one_line();
    assert_eq!(cni.asked(), ["ADD-good", "ADD-bad", "DEL-bad", "DEL-good"]);
    // Never a second ADD for one network, whatever it is called.
    cni.forget_asked();
    let twice = cni.podrun("create pod web --network cni:net --network cni:");
    twice.fails(1).with_one_line().says("the pod is on this network already");
    assert_eq!(cni.asked(), ["ADD-good", "ADD-bad", "DEL-bad", "DEL-good"]);
    cni.pod("web", "--network cni:net");
    cni.podrun("network connect cni: web").fails(1).with_one_line().says("the pod is on this network already");
}

#[test]
fn a_plugin_that_hangs_is_killed_with_its_children() {
    let cni = Cni::new();
    cni.plugin("bad", "[ $CNI_COMMAND = DEL ] && exit 0\nsleep 3456 & setsid sleep 3456 & sleep 3456");
    cni.chain("net", &[json!({"type": "bad"})]);
    let told = cni.command("create pod web --network cni:net").env("PODRUN_CNI_TIMEOUT", "1").run();
    told.fails(1).with_one_line().says("it did not end within 1.").within(Duration::from_secs(6));
    assert_eq!(cni.asked(), ["ADD-bad", "DEL-bad"]);
    eventually("its children are gone", Duration::from_secs(2), || {
        (!cni.host.processes().contains("3456")).then_some(())
    });
}

#[test]
fn configurations_that_cannot_be_are_told_with_file_and_line() {
    let cni = Cni::new();
    cni.giving("good", "10.7.0.9/24");
    cni.host
        .program("sh -c")
        .args([format!("cp {0}/good {0}/lame; chmod 644 {0}/lame", cni.dir.join("bin").display())])
        .run()
        .ok();
    let list =
        |plugin: &str| format!("{{\n\"cniVersion\": \"1.0.0\",\n\"name\": \"net\",\n\"plugins\": [\n{plugin}\n]\n}}");
    let path = cni.dir.join("net.d/net.conflist");
    for (text, why) in [
        ("{\n\"name\": \"net\",\n".to_owned(), "EOF while parsing a value at line 3"),
        (list("{\"type\": \"good\",}"), "trailing comma at line 5"),
        (list("{\"kind\": \"good\"}"), "missing field `type` at line 5"),
        (list("{\"type\": \"../bin/good\"}"), "has no slash at line 5"),
        (list("{\"type\": \"good\", \"ipam\": {\"type\": \"/bin/sh\"}}"), "has no slash at line 5"),
        (list(""), "it has no plugins"),
        (list("{\"type\": \"good\"}").replace("\"net\"", "\"a\\nb\""), "is not the name of a network"),
        (list("{\"type\": \"good\"}").replace("1.0.0", "0.2.0"), "cniVersion 0.2.0: podrun speaks 0.3.0 to 1.1.0"),
        (list("{\"type\": \"good\"}").replace("1.0.0", "3.0.0"), "cniVersion 3.0.0: podrun speaks 0.3.0 to 1.1.0"),
    ] {
        fs::write(&path, &text).unwrap();
        for which in ["", path.to_str().unwrap()] {
            let told = cni.podrun(format!("create pod web --network cni:{which}"));
            told.fails(1).with_one_line().says(why).says("net.d/net.conflist");
        }
        // By its name it is not found, and the broken file is named.
        cni.podrun("create pod web --network cni:net").fails(1).says("no configuration in").says(why);
    }
    let looked = format!("it is not in {}, {DEBIAN}", cni.dir.join("bin").display());
    for (plugin, why) in [
        ("{\"type\": \"nosuch\"}", looked.as_str()),
        ("{\"type\": \"good\", \"ipam\": {\"type\": \"nosuch\"}}", looked.as_str()),
        ("{\"type\": \"lame\"}", "lame is not executable"),
    ] {
        fs::write(&path, list(plugin)).unwrap();
        cni.forget_asked();
        cni.podrun("create pod web --network cni:net").fails(1).with_one_line().says(why);
        assert_eq!(cni.asked(), Vec::<String>::new(), "nobody was asked in vain");
    }
    fs::remove_file(&path).unwrap();
    cni.podrun("create pod web --network cni:").fails(1).with_one_line().says("there is no configuration in");
    cni.podrun("create pod web --network cni:../net").fails(2).with_one_line();
    cni.podrun("create pod web --network cni:/nonexistent.conflist")
        .fails(1)
        .with_one_line()
        .says("/nonexistent.conflist");
    cni.podrun("create pod web --network cni:net,mtu=1400").fails(2).with_one_line().says("own configuration");
}

#[test]
fn configurations_are_found_as_libcni_finds_them() {
    let cni = Cni::new();
    for (name, address) in
        [("one", "10.7.0.1/24"), ("two", "10.7.0.2/24"), ("three", "10.7.0.3/24"), ("more", "10.7.0.4/24")]
    {
        cni.giving(name, address);
    }
    let made = |which: &str, address: &str| {
        cni.podrun(format!("create pod web --network cni:{which}")).ok().prints(&format!("pod/web created, {address}"));
        cni.podrun("delete pod web").ok();
    };
    cni.file("20-b.conflist", r#"{"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "two"}]}"#);
    cni.file("10-a.conf", r#"{"cniVersion": "1.0.0", "name": "net", "type": "one"}"#);
    cni.file("30-c.json", r#"{"cniVersion": "1.0.0", "name": "single", "type": "three"}"#);
    cni.file("00-not.txt", "nothing");
    // The first by its file's name is the default; by the network's name a list wins.
    made("", "10.7.0.1");
    made("net", "10.7.0.2");
    made("single", "10.7.0.3");
    // By its path, wherever it is and whatever its ending.
    let elsewhere = cni.dir.join("elsewhere");
    fs::write(&elsewhere, r#"{"cniVersion": "1.0.0", "name": "far", "plugins": [{"type": "one"}]}"#).unwrap();
    made(elsewhere.to_str().unwrap(), "10.7.0.1");
    // Plugins in a directory of the network's name follow those of the list.
    fs::create_dir(cni.dir.join("net.d/net")).unwrap();
    cni.file("net/50-more.conf", r#"{"type": "more"}"#);
    made("net", "10.7.0.4");
    cni.file(
        "20-b.conflist",
        r#"{"cniVersion": "1.0.0", "name": "net", "loadOnlyInlinedPlugins": true, "plugins": [{"type": "two"}]}"#,
    );
    made("net", "10.7.0.2");
    // The variables of other tools are heard, too.
    let command = cni.host.command("create pod web --network cni:single").env("NETCONFPATH", cni.dir.join("net.d"));
    command.env("CNI_PATH", cni.dir.join("bin")).run().ok();
    let list = cni.podrun("network ls").ok().text();
    let row = |name: &str| {
        list.lines()
            .find(|line| line.starts_with(name))
            .unwrap()
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(row("cni:single"), ["cni:single", "cni", "-", "1"]);
    let shown = cni.podrun("network inspect cni:single").json();
    assert_eq!((&shown["plugins"], &shown["cniVersion"]), (&json!(["three"]), &json!("1.0.0")));
    assert_eq!((&shown["pods"][0]["name"], &shown["pods"][0]["addresses"]), (&json!("web"), &json!(["10.7.0.3/24"])));
    cni.podrun("network rm cni:net").fails(2).with_one_line().says("it is of CNI plugins");
    cni.podrun("network inspect cni:nosuch").fails(1).with_one_line().says("there are net");
}

#[test]
fn prune_ends_what_pods_of_an_earlier_boot_have_left() {
    let cni = Cni::new();
    cni.giving("one", "10.7.0.9/24");
    let file = cni.chain("net", &[json!({"type": "one"})]);
    cni.pod("web", "--network cni:net");
    cni.reboot();
    fs::remove_file(file).unwrap();
    cni.forget_asked();
    cni.podrun("prune").ok().prints_something_like("would remove the CNI attachment of web to net with 10.7.0.9");
    assert_eq!(cni.asked(), Vec::<String>::new());
    cni.podrun("prune --force").ok().prints("removed the CNI attachment of web to net with 10.7.0.9");
    // DEL with what ADD was, and no namespace.
    assert_eq!(cni.asked(), ["DEL-one"]);
    let (environment, input) = cni.given("DEL-one");
    assert!(environment.contains("CNI_NETNS=\n") && environment.contains("K8S_POD_NAME=web"), "{environment}");
    assert_eq!(input["prevResult"]["ips"][0]["address"], "10.7.0.9/24");
    cni.podrun("prune").ok().prints("");
    assert!(!cni.host.root().join("cni").exists());
}

#[test]
fn pods_that_share_a_network_of_plugins_leave_it_with_the_last_of_them() {
    let cni = Cni::new();
    cni.giving("one", "10.7.0.9/24");
    cni.chain("net", &[json!({"type": "one"})]);
    cni.pod("web", "--network cni:net");
    cni.pod("side", "--network pod:web");
    assert_eq!(cni.address("side"), "10.7.0.9");
    let id = cni.host.inspect("web")["id"].as_str().unwrap().to_owned();
    cni.forget_asked();
    cni.podrun("delete pod web").ok();
    assert_eq!(cni.asked(), Vec::<String>::new());
    cni.podrun("network reload").ok().prints("network/cni:net checked for pod/side");
    cni.podrun("delete pod side").ok().says_nothing();
    assert_eq!(cni.asked(), ["CHECK-one", "DEL-one"]);
    assert!(cni.given("DEL-one").0.contains(&format!("CNI_CONTAINERID={id}\n")), "as it was added");
}

#[test]
fn a_port_that_no_plugin_maps_is_refused() {
    let cni = Cni::new();
    cni.giving("one", "10.7.0.9/24");
    cni.giving("mapper", "10.7.0.8/24");
    cni.chain("bare", &[json!({"type": "one"})]);
    let told = cni.podrun("create pod web --network cni:bare --publish 8080:80");
    told.fails(1).with_one_line().says("no plugin of the CNI network bare has the capability portMappings");
    assert_eq!(cni.asked(), Vec::<String>::new());
    cni.chain("net", &[json!({"type": "mapper", "capabilities": {"portMappings": true}})]);
    // The first that can, and only that.
    cni.pod("web", "--network cni:bare --network cni:net --publish :80");
    let port = cni.given("ADD-mapper").1["runtimeConfig"]["portMappings"][0]["hostPort"].clone();
    assert!(port.as_u64().is_some_and(|port| port > 0), "any free one is chosen by podrun");
    assert!(cni.given("ADD-one").1.get("runtimeConfig").is_none());
    cni.podrun("port web").ok().prints(&format!("80/tcp -> 0.0.0.0:{port}"));
    for change in ["--publish 8081:81", &format!("--unpublish {port}")] {
        cni.podrun(format!("update pod web {change}")).fails(1).with_one_line().says("make ports when the pod is made");
    }
}

#[test]
fn the_names_that_plugins_say_are_in_resolv_conf() {
    let cni = Cni::new();
    let dns = r#"echo '{"ips": [{"address": "10.7.0.9/24"}], "dns": {"nameservers": ["10.7.0.1"], "domain": "net.local", "search": ["a.local"], "options": ["ndots:2"]}}'"#;
    cni.plugin("one", &format!("[ $CNI_COMMAND = ADD ] && {dns} || true"));
    cni.chain("net", &[json!({"type": "one"})]);
    cni.pod("web", "--network cni:net");
    cni.pod("own", "--network cni:net --dns 192.0.2.53 --dns-search own.local");
    for (pod, lines) in [
        ("web", ["nameserver 10.7.0.1", "search net.local a.local", "options ndots:2"]),
        ("own", ["nameserver 192.0.2.53", "search own.local", "options ndots:2"]),
    ] {
        let text = cni.host.run(&format!("{pod}/cat"), "", "cat /etc/resolv.conf").ok().text();
        assert!(lines.iter().all(|line| text.lines().any(|one| one == *line)), "{pod}: {text}");
    }
}

#[test]
fn gc_is_told_whose_attachments_are_there() {
    let cni = Cni::new();
    cni.giving("one", "10.7.0.9/24");
    cni.chain_of("1.1.0", "net", &[json!({"type": "one"})]);
    cni.pod("web", "--network cni:net");
    cni.pod("db", "--network cni:net,interface=net0");
    cni.forget_asked();
    cni.podrun("prune --dry-run").ok();
    assert_eq!(cni.asked(), Vec::<String>::new());
    cni.podrun("prune --force").ok();
    assert_eq!(cni.asked(), ["GC-one"]);
    let (environment, input) = cni.given("GC-one");
    assert!(!environment.contains("CNI_CONTAINERID") && !environment.contains("CNI_NETNS"), "{environment}");
    let all = |key: &str| {
        let mut all: Vec<(String, String)> = input[key]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| (one["containerID"].as_str().unwrap().to_owned(), one["ifname"].as_str().unwrap().to_owned()))
            .collect();
        all.sort();
        all
    };
    let id = |pod: &str| cni.host.inspect(pod)["id"].as_str().unwrap().to_owned();
    let mut wanted = vec![(id("web"), "eth0".to_owned()), (id("db"), "net0".to_owned())];
    wanted.sort();
    assert_eq!((all("cni.dev/valid-attachments"), all("cni.dev/attachments")), (wanted.clone(), wanted));
    cni.podrun("delete pod web db").ok();
    // Once more with nobody, and then never again: podrun has nothing there any more.
    cni.podrun("prune --force").ok();
    assert_eq!(cni.given("GC-one").1["cni.dev/valid-attachments"], json!([]));
    cni.forget_asked();
    cni.podrun("prune --force").ok();
    assert_eq!(cni.asked(), Vec::<String>::new());
    // Before 1.1 there is none, and it may be turned off.
    for words in [
        json!({"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "one"}]}),
        json!({"cniVersion": "1.1.0", "name": "net", "disableGC": true, "plugins": [{"type": "one"}]}),
    ] {
        cni.file("net.conflist", words.to_string());
        cni.pod("web", "--network cni:net");
        cni.podrun("prune --force").ok();
        assert!(!cni.asked().iter().any(|one| one.starts_with("GC")));
        cni.podrun("delete pod web").ok();
    }
}

#[test]
fn doctor_tells_what_is_wrong_with_networks_of_plugins() {
    let cni = Cni::new();
    cni.giving("good", "10.7.0.9/24");
    cni.plugin(
        "tired",
        "[ $CNI_COMMAND = STATUS ] && { echo '{\"code\": 50, \"msg\": \"the daemon sleeps\"}'; exit 1; } || true",
    );
    let old = cni.plugin("old", "true");
    let text = fs::read_to_string(&old)
        .unwrap()
        .replace(", \"1.1.0\"]", "]")
        .replace("\"cniVersion\": \"1.1.0\"", "\"cniVersion\": \"1.0.0\"");
    fs::remove_file(&old).unwrap();
    cni.host.program("sh -c").args([format!("cat > {0} && chmod 755 {0}", old.display())]).stdin(text).run().ok();
    let found = || {
        let all = cni.podrun("doctor -o json");
        let all: Value = serde_json::from_slice(&all.stdout).unwrap();
        let texts = all.as_array().unwrap().iter().filter(|one| one["said"].as_str().unwrap().contains("CNI network"));
        texts
            .map(|one| {
                format!("{}: {} | {}", one["state"].as_str().unwrap(), one["said"].as_str().unwrap(), one["cure"])
            })
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert_eq!(found(), "");
    for (text, says) in [
        (
            r#"{"cniVersion": "1.1.0", "name": "net", "plugins": [{"type": "good"}]}"#,
            vec!["ok: the CNI network net is ready"],
        ),
        ("{\n\"name\": 7}", vec!["info: no CNI network by", "net.conflist: ", "at line 2", "mend the file"]),
        (
            r#"{"cniVersion": "1.1.0", "name": "net", "plugins": [{"type": "nosuch", "ipam": {"type": "neither"}}]}"#,
            vec![
                "info: the CNI network net: find the CNI plugin nosuch: it is not in",
                "find the CNI plugin neither",
                "containernetworking-plugins",
            ],
        ),
        (
            r#"{"cniVersion": "1.1.0", "name": "net", "plugins": [{"type": "tired"}]}"#,
            vec![
                "info: the CNI network net is not ready: STATUS net by the CNI plugin tired: the daemon sleeps (code 50)",
            ],
        ),
        (
            r#"{"cniVersion": "1.1.0", "name": "net", "plugins": [{"type": "good"}, {"type": "old"}]}"#,
            vec![
                "info: the CNI network net is of cniVersion 1.1.0, and its plugin old speaks 0.3.1, 0.4.0, 1.0.0",
                "lower cniVersion",
            ],
        ),
    ] {
        cni.file("net.conflist", text);
        let told = found();
        says.iter().for_each(|part| assert!(told.contains(part), "{part} in {told}"));
    }
    // With a pod on it, it is wrong, and no longer only worth knowing.
    cni.chain_of("1.1.0", "net", &[json!({"type": "good"})]);
    cni.pod("web", "--network cni:net");
    fs::rename(cni.dir.join("bin/good"), cni.dir.join("bin/away")).unwrap();
    cni.podrun("doctor").fails(1);
    assert!(found().contains("wrong: the CNI network net: find the CNI plugin good"), "{}", found());
    fs::rename(cni.dir.join("bin/away"), cni.dir.join("bin/good")).unwrap();
}
