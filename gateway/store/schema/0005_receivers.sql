-- Who is sent the feed: how far each receiver got, what it is being sent, who sends it, and what it did not take.

create table receivers (
    site_id        bigint not null,
    receiver_id    bigint not null,
    url            text not null,
    subject        text not null,
    secret         text not null,
    max_attempts   integer not null,
    created_at     bigint not null,
    position       bigint not null,
    entries        bigint not null,
    until_position bigint,
    until_entries  bigint not null,
    attempts       integer not null,
    retry_at       bigint not null,
    error          text,
    delivered_at   bigint,
    holder         text not null,
    held_until     bigint not null,
    primary key (site_id, receiver_id)
);

create table dead_letters (
    site_id        bigint not null,
    receiver_id    bigint not null,
    position       bigint not null,
    entries        bigint not null,
    until_position bigint not null,
    until_entries  bigint not null,
    attempts       integer not null,
    at             bigint not null,
    error          text not null,
    again          integer not null,
    primary key (site_id, receiver_id, position, entries)
);
