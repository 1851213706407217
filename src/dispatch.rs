//! The one way in for every dialect: snapshot, route, lease, answer.
