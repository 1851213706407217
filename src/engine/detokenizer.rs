//! Tokens to text as they come; never half a character.
