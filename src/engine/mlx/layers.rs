//! Linear layers (dense and quantised), embeddings, norms.
