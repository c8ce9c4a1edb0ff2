use super::iptables_save::SavedRules;
use super::*;

fn lines(interception: &Interception, family: Family) -> Vec<String> {
    interception.rules(family).iter().map(ToString::to_string).collect()
}

/// INJ1: without lists.
#[test]
fn rules_without_lists_are_open_service_meshs() {
    assert_eq!(
        lines(&Interception::default(), Family::V4),
        [
            "-A OSM_PROXY_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15003",
            "-A OSM_PROXY_OUT_REDIRECT -p tcp -j REDIRECT --to-ports 15001",
            "-A OSM_PROXY_OUT_REDIRECT -p tcp -m tcp --dport 15000 -j ACCEPT",
            "-A OUTPUT -p tcp -j OSM_PROXY_OUTBOUND",
            "-A OSM_PROXY_OUTBOUND ! -d 127.0.0.1/32 -o lo -m owner --uid-owner 1500 -j OSM_PROXY_IN_REDIRECT",
            "-A OSM_PROXY_OUTBOUND -o lo -m owner ! --uid-owner 1500 -j RETURN",
            "-A OSM_PROXY_OUTBOUND -m owner --uid-owner 1500 -j RETURN",
            "-A OSM_PROXY_OUTBOUND -d 127.0.0.1/32 -j RETURN",
            "-A OSM_PROXY_OUTBOUND -j OSM_PROXY_OUT_REDIRECT",
        ]
    );
    let six = lines(&Interception::default(), Family::V6);
    let four: Vec<_> = six.iter().map(|line| line.replace("::1/128", "127.0.0.1/32")).collect();
    assert_eq!(four, lines(&Interception::default(), Family::V4));
}

fn with_lists() -> Interception {
    Interception {
        exclude_interfaces: vec!["eth1".into(), "tun+".into(), "eth1".into()],
        exclude_blocks: ["1.1.1.1/32", "2001:db8::/32", "10.1.2.3/8", "10.0.0.0/8"]
            .map(|block| block.parse().expect("a block"))
            .to_vec(),
        exclude_ports: vec![10, 20, 10],
        include_blocks: ["3.3.3.3/32", "4.4.4.4/32"].map(|block| block.parse().expect("a block")).to_vec(),
        inbound: Some(Inbound { port: 15003, exclude_ports: vec![30, 40] }),
        ..Interception::default()
    }
}

/// INJ2: with all lists.
#[test]
fn rules_with_all_lists_are_open_service_meshs() {
    let input = with_lists().restore_input(Family::V4);
    let expected = "\
*nat
:OSM_PROXY_INBOUND - [0:0]
:OSM_PROXY_IN_REDIRECT - [0:0]
:OSM_PROXY_OUTBOUND - [0:0]
:OSM_PROXY_OUT_REDIRECT - [0:0]
-A OSM_PROXY_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15003
-A PREROUTING -p tcp -j OSM_PROXY_INBOUND
-A OSM_PROXY_INBOUND -i eth1 -j RETURN
-A OSM_PROXY_INBOUND -i tun+ -j RETURN
-A OSM_PROXY_INBOUND -p tcp -m multiport --dports 30,40 -j RETURN
-A OSM_PROXY_INBOUND -p tcp -m tcp --dport 15010 -j RETURN
-A OSM_PROXY_INBOUND -p tcp -m tcp --dport 15901 -j RETURN
-A OSM_PROXY_INBOUND -p tcp -m tcp --dport 15902 -j RETURN
-A OSM_PROXY_INBOUND -p tcp -m tcp --dport 15903 -j RETURN
-A OSM_PROXY_INBOUND -p tcp -m tcp --dport 15904 -j RETURN
-A OSM_PROXY_INBOUND -p tcp -j OSM_PROXY_IN_REDIRECT
-A OSM_PROXY_OUT_REDIRECT -p tcp -j REDIRECT --to-ports 15001
-A OSM_PROXY_OUT_REDIRECT -p tcp -m tcp --dport 15000 -j ACCEPT
-A OUTPUT -p tcp -j OSM_PROXY_OUTBOUND
-A OSM_PROXY_OUTBOUND ! -d 127.0.0.1/32 -o lo -m owner --uid-owner 1500 -j OSM_PROXY_IN_REDIRECT
-A OSM_PROXY_OUTBOUND -o lo -m owner ! --uid-owner 1500 -j RETURN
-A OSM_PROXY_OUTBOUND -m owner --uid-owner 1500 -j RETURN
-A OSM_PROXY_OUTBOUND -d 127.0.0.1/32 -j RETURN
-A OSM_PROXY_OUTBOUND -o eth1 -j RETURN
-A OSM_PROXY_OUTBOUND -o tun+ -j RETURN
-A OSM_PROXY_OUTBOUND -d 1.1.1.1/32 -j RETURN
-A OSM_PROXY_OUTBOUND -d 10.0.0.0/8 -j RETURN
-A OSM_PROXY_OUTBOUND -p tcp -m multiport --dports 10,20 -j RETURN
-A OSM_PROXY_OUTBOUND -d 3.3.3.3/32 -j OSM_PROXY_OUT_REDIRECT
-A OSM_PROXY_OUTBOUND -d 4.4.4.4/32 -j OSM_PROXY_OUT_REDIRECT
-A OSM_PROXY_OUTBOUND -j RETURN
COMMIT
";
    assert_eq!(input, expected);
    let six = lines(&with_lists(), Family::V6);
    assert!(six.contains(&"-A OSM_PROXY_OUTBOUND -d 2001:db8::/32 -j RETURN".to_owned()), "{six:?}");
    assert!(!six.iter().any(|line| line.contains("1.1.1.1") || line.contains("3.3.3.3")), "{six:?}");
    assert_eq!(six.last().map(String::as_str), Some("-A OSM_PROXY_OUTBOUND -j RETURN"));
}

/// D21: iptables takes 15 ports in one rule.
#[test]
fn port_lists_are_split_into_rules_of_15() {
    for (count, sizes) in [(15, vec![15]), (16, vec![15, 1]), (40, vec![15, 15, 10])] {
        let exclude_ports = (1..=count).collect();
        let rules = lines(&Interception { exclude_ports, ..Interception::default() }, Family::V4);
        let found: Vec<_> = rules
            .iter()
            .filter_map(|rule| rule.split("--dports ").nth(1))
            .map(|ports| ports.split(',').count())
            .collect();
        assert_eq!(found, sizes);
    }
}

fn save(rules: &[Rule]) -> String {
    let chains = CHAINS.map(|chain| format!(":{chain} - [0:0]\n")).concat();
    let rules: String = rules.iter().map(|rule| format!("{rule}\n")).collect();
    format!("*nat\n:OUTPUT ACCEPT [1:60]\n{chains}-A OUTPUT -p udp -j FOREIGN\n{rules}COMMIT\n")
}

#[test]
fn rules_in_force_are_not_installed_again() {
    let rules = with_lists().rules(Family::V4);
    let mut shuffled = rules.clone();
    // iptables-save prints chain by chain.
    shuffled.sort_by(|a, b| a.chain.cmp(&b.chain));
    assert_eq!(SavedRules::parse(&save(&shuffled)).render_replacement(&rules), None);
    assert!(SavedRules::parse(&save(&shuffled)).has_expected_sizes(&rules));
    for missing in 0..rules.len() {
        let mut fewer = rules.clone();
        fewer.remove(missing);
        let saved = SavedRules::parse(&save(&fewer));
        assert!(saved.render_replacement(&rules).is_some(), "without {}", rules[missing]);
        assert!(!saved.has_expected_sizes(&rules), "without {}", rules[missing]);
    }
}

#[test]
fn only_rules_of_osm_egress_are_replaced() {
    let saved = SavedRules::parse(
        "*nat\n:OUTPUT ACCEPT [0:0]\n:OSM_PROXY_OUTBOUND - [0:0]\n:OSM_PROXY_OLD - [0:0]\n\
         -A OUTPUT -p udp -m comment --comment \"-j OSM\" -j FOREIGN\n\
         -A OUTPUT -p tcp -m comment --comment \"a b\" -j OSM_PROXY_OUTBOUND\n\
         -A OUTPUT -p tcp -j OSM_PROXY_OUTBOUND\n-A OSM_PROXY_OUTBOUND -j RETURN\nCOMMIT\n",
    );
    assert_eq!(
        saved.render_replacement(&[]).as_deref(),
        Some(
            "*nat\n:OSM_PROXY_OUTBOUND - [0:0]\n\
             -D OUTPUT -p tcp -m comment --comment \"a b\" -j OSM_PROXY_OUTBOUND\n\
             -D OUTPUT -p tcp -j OSM_PROXY_OUTBOUND\n-X OSM_PROXY_OUTBOUND\nCOMMIT\n"
        )
    );
    assert_eq!(SavedRules::default().render_replacement(&[]), None);
}

#[test]
fn interface_names_are_validated() {
    for name in ["eth0", "tun+", "net1", "eth0.100", "br-lan", "wg_0", "eth0@if5"] {
        assert_eq!(parse_interface(name).as_deref(), Ok(name));
    }
    for name in ["", "+", "-j", "eth0 -j ACCEPT", "eth0\n", "a/b", "..", "sixteen-letters+", "é"] {
        assert!(parse_interface(name).is_err(), "{name:?}");
    }
}
