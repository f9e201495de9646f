"""The stages that bytes pass on their way to a storage and back: split, compress, measure, and the way in reverse."""
