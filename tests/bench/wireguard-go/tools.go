//go:build tools

// Package tools pins the peer of the tunnel benchmark.
package tools

import _ "golang.zx2c4.com/wireguard"
