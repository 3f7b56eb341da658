//go:build tools

// Package tools pins the cluster DNS server.
package tools

import (
	_ "github.com/coredns/coredns"
)
