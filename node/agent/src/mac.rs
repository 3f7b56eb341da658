//! Ethernet addresses.

/// A random one, of those that belong to no manufacturer.
pub fn random() -> [u8; 6] {
    let mut mac = rand::random::<[u8; 6]>();
    // Locally administered, and of a single device.
    mac[0] = mac[0] & 0xfe | 2;
    mac
}

/// As `aa:bb:cc:dd:ee:ff`.
pub fn format(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    #[test]
    fn is_lower_case_with_colons() {
        assert_eq!(super::format([2, 0, 0xab, 1, 0xff, 9]), "02:00:ab:01:ff:09");
    }

    #[test]
    fn random_ones_differ_and_are_nobodys() {
        let [a, b] = [super::random(), super::random()];
        assert_ne!(a, b);
        assert_eq!((a[0] & 3, b[0] & 3), (2, 2));
    }
}
