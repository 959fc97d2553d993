-- One schema for SQLite and PostgreSQL. A line that starts with `--sqlite` or `--postgres` counts only there.
-- Times are microseconds since the epoch, UTC. Devices, visitors, events and properties are distributed by device_id,
-- identities by value, profiles by profile_id: each key holds its distribution column, no foreign key crosses them.

create table config (
    name  text primary key,
    value text not null
);

-- Each process takes the next number for its ids.
--postgres create sequence nodes;

create table sites (
    site_id     bigint primary key,
    name        text not null unique,
    api_key     text not null unique,
    secret_keys text not null,
    settings    text not null,
    created_at  bigint not null
);

create table devices (
    site_id      bigint not null,
    device_id    bigint not null,
    server       integer not null,
    created_at   bigint not null,
    clock_offset bigint not null,
    context      text,
    erasures     text,
    primary key (site_id, device_id)
);

create table visitors (
    site_id     bigint not null,
    device_id   bigint not null,
    visitor_id  bigint not null,
    started_at  bigint not null,
    ended_at    bigint not null,
    home        bigint not null,
    claim_kind  text,
    claim_value text,
    claim_seq   bigint not null,
    claim_at    bigint not null,
    proof       integer,
    tentative   integer not null,
    first_seen  bigint,
    last_seen   bigint,
    events      bigint not null,
    primary key (site_id, device_id, visitor_id)
);
create index visitors_by_home on visitors (site_id, home);

create table identities (
    site_id       bigint not null,
    kind          text not null,
    value         text not null,
    home          bigint not null,
    proof         integer not null,
    since         bigint not null,
    server_device bigint not null,
    primary key (site_id, value, kind)
);
create index identities_by_home on identities (site_id, home);

create table homes (
    site_id bigint not null,
    kind    text not null,
    value   text not null,
    home    bigint not null,
    primary key (site_id, value, kind)
);
create index homes_by_home on homes (site_id, home);

create table profiles (
    site_id       bigint not null,
    profile_id    bigint not null,
    root          bigint not null,
    live          integer not null,
    primary_kind  text,
    primary_value text,
    primary key (site_id, profile_id)
);
create index profiles_by_root on profiles (site_id, root);

create table events (
--sqlite    event_id    integer primary key,
--postgres    event_id    bigint not null,
    site_id     bigint not null,
    device_id   bigint not null,
    message_id  text not null,
    name        text not null,
    data        text not null,
    extras      text,
    page        text,
    occurred_at bigint not null,
    received_at bigint not null,
    clamped     integer not null
--postgres    , primary key (device_id, event_id)
);
create unique index events_by_message on events (device_id, message_id);
create index events_by_time on events (device_id, occurred_at, event_id);

create table properties (
    site_id   bigint not null,
    device_id bigint not null,
    kind      text not null,
    key       text not null,
    at        bigint not null,
    op_id     text not null,
    value     text not null,
    primary key (site_id, device_id, kind, key, at, op_id)
);

create table ledger (
    site_id          bigint not null,
    op_id            text not null,
    device_id        bigint not null,
    seq              bigint not null,
    kind             text not null,
    outcome          text not null,
    actor            text not null,
    proof            integer,
    at               bigint not null,
    committed_at     bigint not null,
    identities       text not null,
    homes            text not null,
    visitor_id       bigint not null,
    detail           text not null,
    flags            integer not null,
    moved_visitors   integer not null,
    moved_identities integer not null,
    reason           text,
    undone_by        text,
    resolved_by      text,
    erased           integer not null,
    inert            integer not null,
    request_hash     text not null,
    primary key (site_id, op_id, device_id)
);
create index ledger_by_seq on ledger (site_id, seq);
create index ledger_by_device on ledger (site_id, device_id, seq);
create index ledger_held on ledger (site_id, seq) where outcome = 'held';

create table ledger_refs (
    site_id    bigint not null,
    profile_id bigint not null,
    seq        bigint not null,
    primary key (site_id, profile_id, seq)
);

create table exclusions (
    site_id   bigint not null,
    profile_a bigint not null,
    profile_b bigint not null,
    seq       bigint not null,
    primary key (site_id, profile_a, profile_b)
);

create table identity_errors (
    site_id   bigint not null,
    code      text not null,
    device_id bigint not null,
    subject   text not null,
    op_id     text not null,
    at        bigint not null,
    home      bigint not null,
    other     bigint not null,
    message   text not null,
    seen      integer not null,
    primary key (site_id, code, device_id, subject)
);
create index identity_errors_by_home on identity_errors (site_id, home);

create table link_tokens (
    site_id   bigint not null,
    token     text not null,
    device_id bigint not null,
    home      bigint not null,
    seen_at   bigint not null,
    primary key (site_id, token, device_id)
);

create table births (
    site_id    bigint not null,
    message_id text not null,
    device_id  bigint not null,
    primary key (site_id, message_id)
);

create table tombstones (
    site_id    bigint not null,
    value_hash text not null,
    deleted_at bigint not null,
    primary key (site_id, value_hash)
);
