//! Edits of manifest text that leave every other byte alone.
