//! Custom resource types, annotations and the CRD generator.
