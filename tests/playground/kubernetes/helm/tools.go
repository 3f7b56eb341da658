//go:build tools

// Package tools pins helm, which installs the product as users do.
package tools

import (
	_ "helm.sh/helm/v4/cmd/helm"
)
