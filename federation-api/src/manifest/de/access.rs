//! Access to lists, mappings and choices: what was taken out is skipped, what is unknown is noted.

use std::sync::Arc;

use serde::de::{self, DeserializeSeed, IntoDeserializer, Visitor};

use super::{DeError, tree::De};
use crate::{
    manifest::{
        ErrorCode,
        node::{Key, Node},
    },
    resources::meta::META_PASSED_OVER,
};

/// Elements of a list, what was left out skipped.
pub(super) struct Items<'a> {
    pub(super) rest: std::iter::Enumerate<std::slice::Iter<'a, Arc<Node>>>,
    pub(super) de: De<'a>,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = DeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, DeError> {
        for (index, node) in self.rest.by_ref() {
            let path = self.de.path.index(index);
            if self.de.ctx.left_out.contains(&path) {
                continue;
            }
            let child = self.de.child(node, path.clone());
            return seed.deserialize(child).map(Some).map_err(|e| e.at(&path));
        }
        Ok(None)
    }
}

/// Entries of a mapping. With `fields`, an absent value counts as an absent field, and unknown keys are noted.
pub(super) struct Entries<'a> {
    pub(super) rest: std::slice::Iter<'a, (Key, Arc<Node>)>,
    pub(super) value: Option<(&'a Key, &'a Node)>,
    pub(super) fields: Option<&'static [&'static str]>,
    pub(super) de: De<'a>,
}

impl Entries<'_> {
    fn is_skipped(&self, key: &Key, value: &Node) -> bool {
        if self.de.ctx.left_out.contains(&self.de.path.key(&key.text)) {
            return true;
        }
        let Some(fields) = self.fields else { return false };
        if !fields.contains(&&*key.text) {
            let passed_over = self.de.path.0.len() == 1
                && self.de.path.to_string() == "metadata"
                && META_PASSED_OVER.contains(&&*key.text);
            if self.de.ctx.strict && !passed_over {
                self.de.note_unknown(key, fields);
            }
            return true;
        }
        value.is_null()
    }
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = DeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DeError> {
        while let Some((key, value)) = self.rest.next() {
            if self.is_skipped(key, value) {
                continue;
            }
            self.value = Some((key, value));
            let text: de::value::StrDeserializer<'_, DeError> = (*key.text).into_deserializer();
            return seed
                .deserialize(text)
                .map(Some)
                .map_err(|e| e.at(&self.de.path.key(&key.text)));
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DeError> {
        let Some((key, node)) = self.value.take() else {
            return Err(DeError::new(
                ErrorCode::BadValue,
                "is read out of order",
                "report this",
            ));
        };
        let path = self.de.path.key(&key.text);
        seed.deserialize(self.de.child(node, path.clone()))
            .map_err(|e| e.at(&path))
    }
}

/// A choice written as one word.
pub(super) struct Word<'a>(pub(super) De<'a>);

impl<'de> de::EnumAccess<'de> for Word<'_> {
    type Error = DeError;
    type Variant = Self;
    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), DeError> {
        let De { node, path, ctx } = self.0;
        let value = seed.deserialize(De {
            node,
            path: path.clone(),
            ctx,
        })?;
        Ok((value, Self(De { node, path, ctx })))
    }
}

impl<'de> de::VariantAccess<'de> for Word<'_> {
    type Error = DeError;
    fn unit_variant(self) -> Result<(), DeError> {
        Ok(())
    }
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _seed: T) -> Result<T::Value, DeError> {
        Err(self.0.wrong("write it as a mapping with this word as key"))
    }
    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, _visitor: V) -> Result<V::Value, DeError> {
        Err(self.0.wrong("write it as a mapping with this word as key"))
    }
    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, DeError> {
        Err(self.0.wrong("write it as a mapping with this word as key"))
    }
}

/// A choice written as a mapping with one key.
pub(super) struct Choice<'a> {
    pub(super) key: &'a Key,
    pub(super) content: De<'a>,
}

impl<'de, 'a> de::EnumAccess<'de> for Choice<'a> {
    type Error = DeError;
    type Variant = De<'a>;
    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, De<'a>), DeError> {
        let word: de::value::StrDeserializer<'_, DeError> = (*self.key.text).into_deserializer();
        let value = seed.deserialize(word).map_err(|e| e.at(&self.content.path))?;
        Ok((value, self.content))
    }
}

impl<'de> de::VariantAccess<'de> for De<'_> {
    type Error = DeError;
    fn unit_variant(self) -> Result<(), DeError> {
        Err(self.wrong("write the word alone"))
    }
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, DeError> {
        let path = self.path.clone();
        seed.deserialize(self).map_err(|e| e.at(&path))
    }
    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, DeError> {
        de::Deserializer::deserialize_seq(self, visitor)
    }
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DeError> {
        self.mapping(visitor, Some(fields))
    }
}
