"""The intermediate representation: types, op declarations, graphs, and what passes and backends share."""
