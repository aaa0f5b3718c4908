"""One file a data set: layout, groups, licence, citation, builder."""
