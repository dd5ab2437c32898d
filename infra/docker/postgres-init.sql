-- One database per service: a service owns its data and nobody else reads it.
CREATE DATABASE catalog;
CREATE DATABASE tracking;
CREATE DATABASE training;
CREATE DATABASE inference;
CREATE DATABASE monitoring;
