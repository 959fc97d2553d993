-- The operator console: who may use it, who is logged in, and what was looked at and changed there.

create table console_users (
    user_id    bigint primary key,
    name       text not null unique,
    password   text not null,
    role       text not null,
    sites      text not null,
    created_at bigint not null
);

create table console_sessions (
    digest     text primary key,
    user_id    bigint not null,
    created_at bigint not null,
    seen_at    bigint not null
);

create table console_audit (
    audit_id  bigint primary key,
    at        bigint not null,
    user_id   bigint not null,
    user_name text not null,
    address   text not null,
    site_id   bigint not null,
    action    text not null,
    subject   text not null,
    detail    text not null
);
create index console_audit_by_action on console_audit (action, at);
