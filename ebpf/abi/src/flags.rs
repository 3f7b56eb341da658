//! Sets of flags that are a plain number in memory.

/// Declares a set of flags over an unsigned integer.
macro_rules! flags {
    ($(#[$doc:meta])* $name:ident: $repr:ty { $($(#[$flag_doc:meta])* $flag:ident = $value:expr;)* }) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, ::bytemuck::Pod, ::bytemuck::Zeroable,
        )]
        #[repr(transparent)]
        pub struct $name($repr);

        impl $crate::record::FieldType for $name {
            const KIND: $crate::FieldKind = $crate::FieldKind::Number;
        }

        impl $name {
            /// No flag.
            pub const NONE: Self = Self(0);
            $($(#[$flag_doc])* pub const $flag: Self = Self($value);)*

            /// The flags of both sets.
            #[must_use]
            pub const fn with(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// The flags of this set that are not in the other.
            #[must_use]
            pub const fn without(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }

            /// Whether all flags of `other` are set.
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// Whether any flag of `other` is set.
            pub const fn intersects(self, other: Self) -> bool {
                self.0 & other.0 != 0
            }

            /// The bits as they stand in memory.
            pub const fn bits(self) -> $repr {
                self.0
            }
        }
    };
}
