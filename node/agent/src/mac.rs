//! Ethernet addresses as text.

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
}
