//! Text of models.yaml to a tree with places.
