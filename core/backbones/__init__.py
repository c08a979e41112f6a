"""The networks of the papers, each the plain network of its name with a slot wherever it would stride."""
