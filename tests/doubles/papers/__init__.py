"""A package of methods as orchestrator sees one: small modules with the public names, which train nothing."""
