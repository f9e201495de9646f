"""The recovery kit: one document with everything that an empty machine needs to restore every backup."""
