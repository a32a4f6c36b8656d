//! What a `Connector` is told to connect to: `host:port`, checked before a resolver sees it.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};

/// The addresses that the system's resolver has for `host:port`.
///
/// A resolver reports a malformed address as a name that it does not know, which may be cured by
/// waiting. So the form is checked first, and refused as `InvalidInput` without an OS code.
pub(crate) fn resolve(address: &str) -> io::Result<Vec<SocketAddr>> {
    let target = split(address).map_err(|why| {
        let text = format!(
            "{address:?} is not host:port: {why}; an address looks like example.com:80, \
             192.0.2.1:80 or [2001:db8::1]:80"
        );
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })?;
    // Not the text as a whole: std knows an interface name only where it stands without brackets.
    let found: Vec<SocketAddr> = target.to_socket_addrs()?.collect();
    if found.is_empty() {
        let text = "the name has no address";
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    Ok(found)
}

/// The host, without brackets, and the port; or what is wrong with the address.
fn split(address: &str) -> Result<(&str, u16), &'static str> {
    if address.contains(|c: char| c.is_whitespace() || c.is_control() || "/@?#".contains(c)) {
        return Err("a scheme, a path, a user name or a blank does not belong in it");
    }
    let (host, port) = if let Some(rest) = address.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("the bracket is not closed")?;
        check_ipv6(host)?;
        (host, rest.strip_prefix(':').ok_or("it has no port")?)
    } else {
        let (host, port) = address.rsplit_once(':').ok_or("it has no port")?;
        if host.contains(':') {
            return Err("an IPv6 address must stand in brackets");
        }
        if host.contains(['[', ']', '%']) {
            return Err("brackets and an interface name belong to an IPv6 address only");
        }
        (host, port)
    };
    if host.is_empty() {
        return Err("it has no host");
    }
    match port.parse() {
        Ok(number @ 1..) if !port.starts_with('+') => Ok((host, number)),
        _ => Err("the port must be a number from 1 to 65535"),
    }
}

/// Checks what stands in brackets: an address, perhaps with an interface (RFC 4007, section 11).
fn check_ipv6(host: &str) -> Result<(), &'static str> {
    let split = host.split_once('%');
    let Ok(ip) = split.map_or(host, |(ip, _)| ip).parse::<Ipv6Addr>() else {
        return Err("only an IPv6 address may stand in brackets");
    };
    match split.map(|(_, interface)| interface) {
        Some("") => Err("the interface after % is missing"),
        // The resolvers of glibc and musl know a name only there.
        Some(name) if name.parse::<u32>().is_err() && !ip.is_unicast_link_local() => {
            Err("only a link-local address (fe80::/10) has an interface name")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_addresses_were_asked_of_the_name_server() {
        let port = "the port must be a number from 1 to 65535";
        let more = "a scheme, a path, a user name or a blank does not belong in it";
        let brackets = "an IPv6 address must stand in brackets";
        let misplaced = "brackets and an interface name belong to an IPv6 address only";
        let not_ipv6 = "only an IPv6 address may stand in brackets";
        for (address, why) in [
            ("", "it has no port"),
            ("localhost", "it has no port"),
            ("[::1]", "it has no port"),
            ("[::1]80", "it has no port"),
            (":80", "it has no host"),
            ("::1", brackets),
            ("2001:db8::11211", brackets),
            ("fe80::1%eth0:80", brackets),
            ("localhost:80:80", brackets),
            ("localhost:", port),
            ("localhost:http", port),
            ("localhost:+80", port),
            ("localhost:0", port),
            ("127.0.0.1:65536", port),
            ("[::1]:", port),
            ("http://localhost:80", more),
            ("unix:/run/server", more),
            ("user@localhost:80", more),
            ("localhost:80\n", more),
            (" localhost:80", more),
            ("local\0host:80", more),
            ("localhost%lo:80", misplaced),
            ("::1]:80", brackets),
            ("a]:80", misplaced),
            ("[::1:80", "the bracket is not closed"),
            ("[]:80", not_ipv6),
            ("[127.0.0.1]:80", not_ipv6),
            ("[localhost]:80", not_ipv6),
            ("[fe80::1%]:80", "the interface after % is missing"),
            (
                "[::1%lo]:80",
                "only a link-local address (fe80::/10) has an interface name",
            ),
        ] {
            assert_eq!(split(address), Err(why), "{address:?}");
            let error = resolve(address).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{address:?}");
            assert_eq!(error.raw_os_error(), None);
            let text = error.to_string();
            assert!(text.starts_with(&format!("{address:?} is not host:port: {why}; ")));
            assert!(text.ends_with("example.com:80, 192.0.2.1:80 or [2001:db8::1]:80"));
        }
    }

    #[test]
    fn well_formed_addresses_are_left_to_the_resolver() {
        for (address, host, port) in [
            ("localhost:80", "localhost", 80),
            ("localhost:080", "localhost", 80),
            ("my_service.internal.:65535", "my_service.internal.", 65535),
            ("bücher.example:80", "bücher.example", 80),
            ("127.0.0.1:1", "127.0.0.1", 1),
            ("127.1:80", "127.1", 80),
            ("[::1]:80", "::1", 80),
            ("[::ffff:127.0.0.1]:80", "::ffff:127.0.0.1", 80),
            ("[::1%1]:80", "::1%1", 80),
            ("[fe80::1%eth0]:80", "fe80::1%eth0", 80),
        ] {
            assert_eq!(split(address), Ok((host, port)), "{address:?}");
        }
    }

    #[test]
    fn literal_addresses_need_no_resolver() {
        for address in ["127.0.0.1:80", "[::1]:80", "[2001:db8::1]:443"] {
            assert_eq!(resolve(address).unwrap(), [address.parse().unwrap()]);
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn an_interface_name_in_brackets_was_a_name_that_no_server_knew() {
        let found = resolve("[fe80::1%lo]:80").unwrap();
        let [SocketAddr::V6(found)] = found[..] else {
            panic!("{found:?}");
        };
        assert_ne!(found.scope_id(), 0);
        // An interface may come later, so this one is worth another try.
        let error = resolve("[fe80::1%nosuchinterface]:80").unwrap_err();
        assert_ne!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
